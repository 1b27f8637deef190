//! The XML that stores answer with, as a small tree. A store may be anybody: there are no entities
//! but the predefined ones, no document types, and bounds for depth and number.

use quick_xml::Reader;
use quick_xml::events::{BytesRef, BytesStart, Event};
use std::fmt;

/// Elements within elements.
const MAX_DEPTH: usize = 8;
/// Elements of a document: 1,000 uploads or parts with all that is known about each.
const MAX_ELEMENTS: usize = 40_000;

/// An element with what it holds. Attributes are left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Element {
    /// Without a name space.
    pub(super) name: String,
    pub(super) text: String,
    pub(super) children: Vec<Element>,
}

impl Element {
    /// The text of the first child of that name.
    pub(super) fn text_of(&self, name: &str) -> Option<&str> {
        let child = self.children.iter().find(|child| child.name == name)?;
        Some(&child.text)
    }

    /// All children of that name.
    pub(super) fn all<'e>(&'e self, name: &'e str) -> impl Iterator<Item = &'e Self> {
        self.children.iter().filter(move |child| child.name == name)
    }
}

/// Why a document is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct XmlError(pub(super) &'static str);

impl fmt::Display for XmlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server's answer is no XML that can be used: {}", self.0)
    }
}

impl std::error::Error for XmlError {}

/// The root element of `document`.
pub(super) fn parse(document: &[u8]) -> Result<Element, XmlError> {
    let text = std::str::from_utf8(document).map_err(|_| XmlError("it is no UTF-8"))?;
    let mut reader = Reader::from_str(text);
    let mut tree = Tree::default();
    while tree.take(reader.read_event().map_err(|_| XmlError("it is not well formed"))?)? {}
    tree.root.ok_or(XmlError("it ends early"))
}

/// What has been read so far.
#[derive(Default)]
struct Tree {
    open: Vec<Element>,
    root: Option<Element>,
    elements: usize,
}

impl Tree {
    /// Takes an event; whether there are more.
    fn take(&mut self, event: Event<'_>) -> Result<bool, XmlError> {
        match event {
            Event::Start(start) => self.begin(&start)?,
            Event::Empty(start) => {
                self.begin(&start)?;
                self.end()?;
            }
            Event::End(_) => self.end()?,
            Event::Text(text) => {
                self.text(&text.decode().map_err(|_| XmlError("it is no UTF-8"))?);
            }
            Event::CData(text) => {
                self.text(&text.decode().map_err(|_| XmlError("it is no UTF-8"))?);
            }
            Event::GeneralRef(name) => {
                let character = character(&name)?;
                self.text(character.encode_utf8(&mut [0; 4]));
            }
            Event::DocType(_) => return Err(XmlError("it has a document type")),
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
            Event::Eof => return Ok(false),
        }
        Ok(true)
    }

    fn begin(&mut self, start: &BytesStart<'_>) -> Result<(), XmlError> {
        self.elements += 1;
        if self.open.len() >= MAX_DEPTH || self.elements > MAX_ELEMENTS {
            return Err(XmlError("it has too many elements"));
        }
        if self.root.is_some() {
            return Err(XmlError("it has two roots"));
        }
        let name = String::from_utf8_lossy(start.local_name().as_ref()).into_owned();
        self.open.push(Element { name, ..Element::default() });
        Ok(())
    }

    fn end(&mut self) -> Result<(), XmlError> {
        let element = self.open.pop().ok_or(XmlError("it is not well formed"))?;
        match self.open.last_mut() {
            Some(parent) => parent.children.push(element),
            None => self.root = Some(element),
        }
        Ok(())
    }

    fn text(&mut self, text: &str) {
        if let Some(element) = self.open.last_mut() {
            element.text.push_str(text);
        }
    }
}

fn character(name: &BytesRef<'_>) -> Result<char, XmlError> {
    let wrong = XmlError("it uses an entity of its own");
    match name.resolve_char_ref() {
        Ok(Some(character)) => return Ok(character),
        Ok(None) => {}
        Err(_) => return Err(wrong),
    }
    match &**name {
        b"lt" => Ok('<'),
        b"gt" => Ok('>'),
        b"amp" => Ok('&'),
        b"quot" => Ok('"'),
        b"apos" => Ok('\''),
        _ => Err(wrong),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_keep_every_character() {
        let root = parse(
            b"<?xml version=\"1.0\"?><r xmlns=\"x\"><a> k&amp;&#x41;&lt; <!-- c --></a>\
              <n:b xmlns:n=\"y\"><![CDATA[<z>]]></n:b><a/></r>",
        )
        .unwrap();
        assert_eq!(root.name, "r");
        assert_eq!(root.text_of("a"), Some(" k&A< "));
        assert_eq!(root.text_of("b"), Some("<z>"));
        assert_eq!(root.all("a").count(), 2);
        assert_eq!(root.text_of("c"), None);
    }

    #[test]
    fn hostile_documents_are_refused() {
        let deep = "<a>".repeat(100_000);
        let wide = format!("<r>{}</r>", "<a/>".repeat(100_000));
        for document in [
            "",
            "plain",
            "<a>",
            "<a></b>",
            "</a>",
            "<a/><b/>",
            "<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>",
            "<a>&x;</a>",
            "<a>&#0;</a>",
            "<a>&#xFFFFFFFFFF;</a>",
            &deep,
            &wide,
        ] {
            assert!(parse(document.as_bytes()).is_err(), "{document:.40}");
        }
        assert!(parse(b"<a>\xff</a>").is_err());
    }
}
