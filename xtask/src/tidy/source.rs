//! Checks on one Rust file: its header, its length, its functions and its documentation.

use super::Finding;
use proc_macro2::{Spacing, Span, TokenStream, TokenTree};
use std::fmt::Display;
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};
use syn::{
    AttrStyle, Attribute, Block, Expr, ExprLit, ImplItemFn, ItemFn, Lit, Macro, Meta, Signature,
};

/// Lines of a file: more are worth a look, and too many.
const LONG_FILE: usize = 300;
const MAX_FILE: usize = 600;
/// Lines of a function, from its signature to its closing brace.
const MAX_FUNCTION: usize = 100;

/// The only place of unsafe code (`docs/decisions/0008-unsafe-in-one-crate.md`).
const UNSAFE_HOME: &str = "crates/kernel/src/";

/// Every rule that the file `name` breaks.
pub(crate) fn check(name: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let first = text.lines().find(|line| !line.trim().is_empty());
    if !first.is_some_and(|line| line.starts_with("//!")) {
        findings.push(Finding::error(name, "it does not open with //! and its purpose"));
    }
    findings.extend(check_length(name, text.lines().count()));
    match syn::parse_file(text) {
        Ok(file) => {
            let mut visitor = Visitor::new(name);
            visitor.visit_file(&file);
            findings.append(&mut visitor.finish());
        }
        Err(error) => findings.push(Finding::error(name, format!("it does not parse: {error}"))),
    }
    findings
}

fn check_length(name: &str, lines: usize) -> Option<Finding> {
    if lines > MAX_FILE {
        let text = format!("{lines} lines, at most {MAX_FILE} are allowed");
        Some(Finding::error(name, text))
    } else if lines > LONG_FILE {
        let text = format!("{lines} lines, aim below {LONG_FILE}");
        Some(Finding::advice(name, text))
    } else {
        None
    }
}

/// One `///` line, or one `#[doc = "..."]`.
struct Doc {
    first: usize,
    last: usize,
    is_inner: bool,
    is_empty: bool,
}

struct Visitor<'a> {
    file: &'a str,
    findings: Vec<Finding>,
    docs: Vec<Doc>,
}

impl<'a> Visitor<'a> {
    fn new(file: &'a str) -> Self {
        Self { file, findings: Vec::new(), docs: Vec::new() }
    }

    fn error(&mut self, span: Span, text: impl Display) {
        let place = format!("{}:{}", self.file, span.start().line);
        self.findings.push(Finding::error(place, text.to_string()));
    }

    fn check_function(&mut self, signature: &Signature, body: &Block) {
        let (start, end) = (signature.span().start().line, body.span().end().line);
        let lines = end.saturating_sub(start) + 1;
        if lines > MAX_FUNCTION {
            let name = &signature.ident;
            let text = format!("fn {name} has {lines} lines, at most {MAX_FUNCTION} are allowed");
            self.error(signature.span(), text);
        }
    }

    fn check_unfinished(&mut self, name: &str, span: Span) {
        if matches!(name, "todo" | "unimplemented") {
            self.error(span, format!("{name}! is not a program"));
        }
    }

    /// Looks for unfinished code inside the arguments of other macros.
    fn check_tokens(&mut self, tokens: TokenStream) {
        let mut name: Option<(String, Span)> = None;
        for token in tokens {
            match &token {
                TokenTree::Group(group) => self.check_tokens(group.stream()),
                TokenTree::Punct(punct)
                    if punct.as_char() == '!' && punct.spacing() == Spacing::Alone =>
                {
                    if let Some((name, span)) = &name {
                        self.check_unfinished(name, *span);
                    }
                }
                _ => {}
            }
            name = match token {
                TokenTree::Ident(ident) => Some((ident.to_string(), ident.span())),
                _ => None,
            };
        }
    }

    /// All findings, those about documentation included: lines of documentation that follow
    /// each other are one comment, and a comment without a word is an error.
    fn finish(mut self) -> Vec<Finding> {
        self.docs.sort_by_key(|doc| doc.first);
        let comments = self
            .docs
            .chunk_by(|one, next| one.last + 1 == next.first && one.is_inner == next.is_inner);
        for comment in comments.filter(|comment| comment.iter().all(|doc| doc.is_empty)) {
            let line = comment.first().map_or(0, |doc| doc.first);
            let place = format!("{}:{line}", self.file);
            self.findings.push(Finding::error(place, "empty documentation"));
        }
        self.findings
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.check_function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        self.check_function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.check_function(&item.sig, body);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if attribute.path().is_ident("ignore") || ignores_conditionally(attribute) {
            self.error(attribute.span(), "a test that is ignored is no test");
        }
        if !self.file.starts_with(UNSAFE_HOME) && relaxes_unsafe(attribute) {
            self.error(attribute.span(), format!("unsafe code belongs into {UNSAFE_HOME}"));
        }
        if let Some(text) = doc_text(attribute) {
            self.docs.push(Doc {
                first: attribute.span().start().line,
                last: attribute.span().end().line,
                is_inner: matches!(attribute.style, AttrStyle::Inner(_)),
                is_empty: text.trim().is_empty(),
            });
        }
        visit::visit_attribute(self, attribute);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        if let Some(last) = call.path.segments.last() {
            self.check_unfinished(&last.ident.to_string(), last.ident.span());
        }
        self.check_tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

/// Whether it weakens the lint `unsafe_code`, with or without a condition.
fn relaxes_unsafe(attribute: &Attribute) -> bool {
    let Meta::List(list) = &attribute.meta else { return false };
    let weakens = ["allow", "warn", "expect", "cfg_attr"];
    let text = list.tokens.to_string();
    weakens.iter().any(|word| list.path.is_ident(word))
        && text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe_code")
}

/// Whether it is `cfg_attr(condition, ignore)`, alone or among others.
fn ignores_conditionally(attribute: &Attribute) -> bool {
    let Meta::List(list) = &attribute.meta else { return false };
    if !list.path.is_ident("cfg_attr") {
        return false;
    }
    let mut after_comma = false;
    list.tokens.clone().into_iter().any(|token| {
        let found = matches!(&token, TokenTree::Ident(ident) if after_comma && ident == "ignore");
        after_comma = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == ',');
        found
    })
}

fn doc_text(attribute: &Attribute) -> Option<String> {
    let Meta::NameValue(pair) = &attribute.meta else {
        return None;
    };
    match &pair.value {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) if pair.path.is_ident("doc") => {
            Some(text.value())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::Severity;

    fn texts(code: &str) -> Vec<String> {
        let text = format!("//! Why this file exists.\n{code}");
        let found = check("a.rs", &text);
        found.iter().map(ToString::to_string).collect()
    }

    fn one(code: &str) -> String {
        let found = texts(code);
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].clone()
    }

    #[test]
    fn a_good_file_has_no_findings() {
        let code = "/// Adds.\n///\n/// # Panics\n/// Never.\nfn add() -> u8 { 1 }\n\
                    #[cfg(test)]\nmod tests {\n    #[test]\n    fn t() { assert!(true); }\n}\n";
        assert_eq!(texts(code), Vec::<String>::new());
    }

    #[test]
    fn a_file_opens_with_its_purpose() {
        for text in ["", "fn a() {}\n", "// no\n", "use std::fmt;\n//! late\n"] {
            let found = check("a.rs", text);
            assert!(
                found.iter().any(|finding| finding.text.contains("//!")),
                "{text:?}: {found:?}"
            );
        }
        assert!(check("a.rs", "\n//! Good.\n#![deny(missing_docs)]\n").is_empty());
    }

    #[test]
    fn unsafe_code_has_one_home() {
        let text = "//! A.\n#![allow(unsafe_code, reason = \"calls the kernel\")]\n";
        assert_eq!(check("crates/live/src/a.rs", text).len(), 1);
        assert!(check("crates/kernel/src/lib.rs", text).is_empty());
        assert!(one("#[cfg_attr(test, allow(unsafe_code))]\nfn f() {}").contains("unsafe"));
        assert!(texts("#[deny(unsafe_code)]\nfn f() {}").is_empty());
    }

    #[test]
    fn files_are_long_and_then_too_long() {
        let file = |lines: usize| format!("//! A.\n{}", "\n".repeat(lines - 1));
        assert!(check("a.rs", &file(300)).is_empty());
        let long = check("a.rs", &file(301));
        assert_eq!(long.len(), 1);
        assert_eq!(long[0].severity, Severity::Advice);
        assert_eq!(check("a.rs", &file(600))[0].severity, Severity::Advice);
        assert_eq!(check("a.rs", &file(601))[0].severity, Severity::Error);
    }

    #[test]
    fn functions_are_counted_from_signature_to_brace() {
        let body = |lines: usize| format!("fn f() {{{}}}\n", "\n".repeat(lines - 1));
        assert!(texts(&body(100)).is_empty());
        assert!(one(&body(101)).contains("fn f has 101 lines"));
        assert!(texts(&format!("{}{}", "/// Long.\n".repeat(50), body(100))).is_empty());
        let method = format!("struct S;\nimpl S {{\n{}}}\n", body(101));
        assert!(one(&method).starts_with("error: a.rs:4: "));
        let default = format!("trait T {{\n{}}}\n", body(101));
        assert!(one(&default).contains("fn f has"));
    }

    #[test]
    fn documentation_says_something() {
        assert_eq!(one("///\nfn f() {}\n"), "error: a.rs:2: empty documentation");
        assert!(one("struct S {\n    ///\n    ///  \n    a: u8,\n}\n").contains(":3:"));
        assert!(texts("///\n/// Good.\nfn f() {}\n").is_empty());
        assert!(texts("/// Good.\n///\nfn f() {}\n").is_empty());
    }

    #[test]
    fn ignored_tests_are_errors() {
        assert!(one("#[test]\n#[ignore]\nfn t() {}\n").contains("a.rs:3"));
        let conditional = "#[test]\n#[cfg_attr(not(windows), ignore = \"slow\")]\nfn t() {}\n";
        assert!(one(conditional).contains("ignored"));
        assert!(one("#[test]\n#[cfg_attr(a, b, ignore)]\nfn t() {}\n").contains("ignored"));
        assert!(texts("#[cfg_attr(ignore, test)]\nfn t() {}\n").is_empty());
        assert!(one("#[test]\n#[ignore = \"slow\"]\nfn t() {}\n").contains("ignored"));
    }

    #[test]
    fn unfinished_code_is_an_error_wherever_it_hides() {
        let (todo, unimplemented) = (concat!("to", "do"), concat!("unimple", "mented"));
        assert!(one(&format!("fn f() {{ {todo}!() }}\n")).contains("is not a program"));
        assert!(one(&format!("fn f() {{ std::{unimplemented}!(); }}\n")).contains(unimplemented));
        assert!(one(&format!("fn f() {{ assert!({todo}!()); }}\n")).contains(todo));
        assert!(texts("fn f() { let todo = 1; assert!(todo != 2); }\n").is_empty());
    }

    #[test]
    fn a_file_that_does_not_parse_is_an_error() {
        assert!(one("fn f( {\n").contains("it does not parse"));
    }
}
