//! The statement with its signatures, as a file and as a message.

use super::{Statement, text};
use crate::trust::{Fingerprint, Identity, hex, verify_signature};
use carreto_error::{Error, Kind, Result, ResultExt as _};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What comes before the statement in what is signed.
const PREFIX: &[u8] = b"carreto-certificate-v1\n";
/// What a document calls itself.
const FORMAT: &str = "carreto-certificate";
/// The version of the document.
const VERSION: u32 = 1;
/// Bytes of a document, at most.
const LIMIT: usize = 8 << 20;

/// Which end signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The source.
    Agent,
    /// The holder of the targets.
    Receiver,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => "agent",
            Self::Receiver => "receiver",
        })
    }
}

/// One signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Who signed.
    pub by: Role,
    /// The raw Ed25519 key.
    pub public_key: [u8; 32],
    /// Over the prefix and the statement.
    pub signature: [u8; 64],
}

/// A statement and who signed it. Every signature in it has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The bytes that are signed.
    text: String,
    statement: Statement,
    signatures: Vec<Signed>,
}

/// What a whole certificate says about who made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The agent and the receiver.
    pub signers: [Signer; 2],
}

/// One end that signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Signer {
    /// Which end.
    pub role: Role,
    /// Its key.
    pub key: Fingerprint,
    /// Whether the key is among those that the caller trusts.
    pub trusted: bool,
}

/// The document as JSON. Strict: a changed name of a field is not skipped.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: String,
    version: u32,
    statement: String,
    signatures: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    by: Role,
    public_key: String,
    signature: String,
}

impl Certificate {
    /// A certificate of `statement` that nobody has signed.
    ///
    /// # Errors
    /// As [`Statement::check`].
    pub fn new(statement: Statement) -> Result<Self> {
        statement.check()?;
        let text = serde_json::to_string(&statement).map_err(|cause| {
            Error::new(Kind::Internal, "the statement has no form in JSON").caused_by(cause)
        })?;
        Ok(Self { text, statement, signatures: Vec::new() })
    }

    /// What is certified. Whoever signs compares it with what it knows first.
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// The statement as it is signed.
    pub fn statement_text(&self) -> &str {
        &self.text
    }

    /// The signatures that are there, all valid.
    pub fn signatures(&self) -> &[Signed] {
        &self.signatures
    }

    /// Signs as `by`. Signing again changes nothing.
    ///
    /// # Errors
    /// `Usage` when the statement names another key for that end.
    pub fn sign(&mut self, by: Role, identity: &Identity) -> Result<()> {
        let (wanted, found) = (self.key_of(by), identity.fingerprint());
        if wanted != found {
            let text = format!("the statement names {wanted} as the {by}, this key is {found}");
            return Err(Error::new(Kind::Usage, text).during("sign the certificate"));
        }
        let signature = identity.sign(&self.message());
        self.add(Signed { by, public_key: identity.public_key(), signature })
    }

    /// Adds the signature that the other end made of the same statement.
    ///
    /// # Errors
    /// `Denied` when it is not a signature of this statement by the key that the statement names.
    pub fn add(&mut self, signed: Signed) -> Result<()> {
        let (wanted, found) = (self.key_of(signed.by), Fingerprint::of_key(&signed.public_key));
        if wanted != found {
            let by = signed.by;
            let text = format!("the {by}'s signature is by the key {found}, expected {wanted}");
            return Err(denied(text));
        }
        verify_signature(&signed.public_key, &self.message(), &signed.signature)
            .wrap_err(|| format!("the {}'s signature is not of this statement", signed.by))?;
        if !self.signatures.iter().any(|known| known.by == signed.by) {
            self.signatures.push(signed);
        }
        Ok(())
    }

    /// Says who vouches for the statement: both ends must have signed it.
    ///
    /// Without `trusted` keys this shows that nothing was changed since the two keys signed, and
    /// nothing about whose keys they are; with some, at least one of the two must be among them.
    ///
    /// # Errors
    /// `Denied` when a signature is missing, or no trusted key signed.
    pub fn verify(&self, trusted: &[Fingerprint]) -> Result<Verified> {
        let signers = [Role::Agent, Role::Receiver].map(|role| {
            let key = self.key_of(role);
            Signer { role, key, trusted: trusted.contains(&key) }
        });
        for Signer { role, key, .. } in signers {
            if !self.signatures.iter().any(|signed| signed.by == role) {
                return Err(denied(format!("the signature of the {role} {key} is missing")));
            }
        }
        if !trusted.is_empty() && !signers.iter().any(|signer| signer.trusted) {
            let [agent, receiver] = signers;
            let text = format!("it is signed by {} and {}", agent.key, receiver.key);
            return Err(denied(format!("{text}, neither of which is trusted")));
        }
        Ok(Verified { signers })
    }

    /// The document, one field a line.
    ///
    /// # Errors
    /// `Internal` when it has no form in JSON.
    pub fn to_json(&self) -> Result<String> {
        let entry = |signed: &Signed| Entry {
            by: signed.by,
            public_key: hex::encode(&signed.public_key),
            signature: hex::encode(&signed.signature),
        };
        let document = Document {
            format: FORMAT.to_owned(),
            version: VERSION,
            statement: self.text.clone(),
            signatures: self.signatures.iter().map(entry).collect(),
        };
        let mut json = serde_json::to_string_pretty(&document).map_err(|cause| {
            Error::new(Kind::Internal, "the certificate has no form in JSON").caused_by(cause)
        })?;
        json.push('\n');
        Ok(json)
    }

    /// Reads a document and checks the statement and every signature in it.
    ///
    /// # Errors
    /// `Limit` for more than 8 MiB, `Corrupt` when it is no certificate, `Unsupported` when it is
    /// one of another version, `Denied` when a signature does not hold.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        if json.len() > LIMIT {
            let text = format!("it has {} bytes, at most {LIMIT}", json.len());
            return Err(Error::new(Kind::Limit, text).during("read the certificate"));
        }
        let document: Document = parse(json)?;
        if document.format != FORMAT {
            return Err(text::refusal(format!("its format is not {FORMAT:?}")));
        }
        if document.version != VERSION {
            let text = format!("its version is {}, expected {VERSION}", document.version);
            return Err(Error::new(Kind::Unsupported, text).during("read the certificate"));
        }
        let statement: Statement = parse(document.statement.as_bytes())?;
        statement.check()?;
        let mut made = Self { text: document.statement, statement, signatures: Vec::new() };
        if document.signatures.len() > 2 {
            let found = document.signatures.len();
            return Err(text::refusal(format!("it has {found} signatures, expected 2")));
        }
        document.signatures.into_iter().try_for_each(|entry| made.add_new(&entry))?;
        Ok(made)
    }

    fn add_new(&mut self, entry: &Entry) -> Result<()> {
        let by = entry.by;
        if self.signatures.iter().any(|known| known.by == by) {
            return Err(text::refusal(format!("it has two signatures of the {by}")));
        }
        let parts = (hex::decode(&entry.public_key), hex::decode(&entry.signature));
        let (Some(public_key), Some(signature)) = parts else {
            let detail = format!("key or signature of the {by} are no hexadecimal digits");
            return Err(text::refusal(detail));
        };
        self.add(Signed { by, public_key, signature })
    }

    fn key_of(&self, role: Role) -> Fingerprint {
        match role {
            Role::Agent => self.statement.agent,
            Role::Receiver => self.statement.receiver,
        }
    }

    fn message(&self) -> Vec<u8> {
        [PREFIX, self.text.as_bytes()].concat()
    }
}

fn parse<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|cause| {
        let (line, column) = (cause.line(), cause.column());
        let detail = format!("it is no certificate, at line {line}, column {column}");
        text::refusal(detail).caused_by(cause)
    })
}

fn denied(detail: String) -> Error {
    Error::new(Kind::Denied, detail)
        .during("verify the certificate")
        .remedied_by("get the certificate again from the receiver; do not rely on this one")
}
