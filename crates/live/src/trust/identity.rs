//! A key of one end: made by itself, kept in a file, shown to the other end in a certificate that
//! vouches for nothing but the key.

use super::{Fingerprint, fingerprint, key_file};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use carreto_error::{Error, Kind, Result, ResultExt as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fmt;
use std::path::Path;
use zeroize::Zeroizing;

/// The name in every certificate. Nobody looks at it: keys are what is compared.
pub(super) const CERTIFICATE_NAME: &str = "carreto.invalid";

/// An Ed25519 key and a certificate that it signed itself.
///
/// The key file is PKCS#8 in PEM, as `openssl genpkey -algorithm ed25519` writes it. The
/// certificate is made anew each time.
pub struct Identity {
    key: Ed25519KeyPair,
    /// The private key, for TLS.
    pkcs8: Zeroizing<Vec<u8>>,
    certificate: CertificateDer<'static>,
    public_key: [u8; 32],
}

impl Identity {
    /// The identity in `folder/<name>.key`, which is created unless it is there.
    ///
    /// Two processes that do this at once get the same one. Blocking.
    ///
    /// # Errors
    /// As [`Self::load`], and what creating the file meets.
    pub fn load_or_create(folder: &Path, name: &str) -> Result<Self> {
        if let Some(found) = Self::load(folder, name)? {
            return Ok(found);
        }
        let made = Self::generate()?;
        let path = folder.join(format!("{name}.key"));
        if key_file::create(&path, made.pem().as_bytes())? {
            return Ok(made);
        }
        let gone = || Error::new(Kind::Io, "it appeared and was gone again");
        Self::load(folder, name)?.ok_or_else(|| gone().path(path.to_string_lossy()))
    }

    /// The identity in `folder/<name>.key`, `None` when there is no such file. Blocking.
    ///
    /// # Errors
    /// `Denied` when the file is a link, belongs to another user or may be read by others; `Usage`
    /// when it is no Ed25519 key, or `name` is no plain name.
    pub fn load(folder: &Path, name: &str) -> Result<Option<Self>> {
        super::check_server_name(name).wrap_err(|| "the name of a key is part of a path".into())?;
        let path = folder.join(format!("{name}.key"));
        let Some(text) = key_file::read(&path)? else { return Ok(None) };
        let bad = || {
            Error::new(Kind::Usage, "it is no Ed25519 key in PEM (PKCS#8)")
                .during("read the key")
                .path(path.to_string_lossy())
        };
        let key = PrivatePkcs8KeyDer::from_pem_slice(&text).map_err(|_| bad())?;
        let pkcs8 = Zeroizing::new(key.secret_pkcs8_der().to_vec());
        Self::of_pkcs8(pkcs8).map(Some).map_err(|error| bad().caused_by(error))
    }

    /// A new one that is not kept.
    ///
    /// # Errors
    /// `Io` when the system has no random bytes.
    pub fn generate() -> Result<Self> {
        let key = Ed25519KeyPair::generate()
            .map_err(|_| Error::new(Kind::Io, "the system gave no random bytes for a key"))?;
        let pkcs8 = key.to_pkcs8v1().map_err(|_| internal("a new key has no PKCS#8 form"))?;
        Self::of_pkcs8(Zeroizing::new(pkcs8.as_ref().to_vec()))
    }

    fn of_pkcs8(pkcs8: Zeroizing<Vec<u8>>) -> Result<Self> {
        let bad = |_| Error::new(Kind::Usage, "it is no Ed25519 key in PKCS#8");
        let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8).map_err(bad)?;
        let public_key = key.public_key().as_ref().try_into();
        let public_key = public_key.map_err(|_| internal("a public key has 32 bytes"))?;
        let certificate = certify(&pkcs8)?;
        Ok(Self { key, pkcs8, certificate, public_key })
    }

    fn pem(&self) -> Zeroizing<String> {
        let body = Zeroizing::new(STANDARD.encode(&*self.pkcs8));
        let text = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            // A PKCS#8 Ed25519 key has 48 bytes: one line of 64 characters, as RFC 7468 wants it.
            body.as_str()
        );
        Zeroizing::new(text)
    }

    /// What names the key.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_key(&self.public_key)
    }

    /// The raw public key.
    pub fn public_key(&self) -> [u8; 32] {
        self.public_key
    }

    /// The Ed25519 signature of `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(self.key.sign(message).as_ref());
        bytes
    }

    pub(super) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    pub(super) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.to_vec()))
    }
}

fn certify(pkcs8: &[u8]) -> Result<CertificateDer<'static>> {
    let fail = |error| internal("a certificate cannot be made").caused_by(error);
    let key = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(
        &PrivatePkcs8KeyDer::from(pkcs8),
        &rcgen::PKCS_ED25519,
    );
    let params = rcgen::CertificateParams::new(vec![CERTIFICATE_NAME.to_owned()]).map_err(fail)?;
    let made = params.self_signed(&key.map_err(fail)?).map_err(fail)?;
    Ok(made.der().clone())
}

/// The key that the certificate in `der` is about.
///
/// # Errors
/// A text when it is no certificate or its key is not Ed25519.
pub(super) fn key_of_certificate(der: &CertificateDer<'_>) -> Result<[u8; 32], &'static str> {
    let parsed = rustls::server::ParsedCertificate::try_from(der);
    let parsed = parsed.map_err(|_| "the certificate cannot be parsed")?;
    let spki = parsed.subject_public_key_info();
    fingerprint::key_of_spki(&spki).ok_or("the key of the certificate is not Ed25519")
}

fn internal(detail: &'static str) -> Error {
    Error::new(Kind::Internal, detail)
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.fingerprint()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::verify_signature;
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    /// Test 1 of RFC 8032, section 7.1: the secret key, the public key, the signature of nothing.
    const RFC_SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const RFC_KEY: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    const RFC_SIGNATURE: &str = "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155\
                                 5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b";

    fn rfc_identity() -> Identity {
        let seed: [u8; 32] = crate::trust::hex::decode(RFC_SEED).unwrap();
        let prefix = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        Identity::of_pkcs8(Zeroizing::new([prefix.as_slice(), &seed].concat())).unwrap()
    }

    #[test]
    fn known_answers() {
        let identity = rfc_identity();
        let key: [u8; 32] = crate::trust::hex::decode(RFC_KEY).unwrap();
        let signature: [u8; 64] = crate::trust::hex::decode(RFC_SIGNATURE).unwrap();
        assert_eq!(identity.public_key(), key);
        assert_eq!(identity.sign(b""), signature);
        verify_signature(&key, b"", &signature).unwrap();
        let error = verify_signature(&key, b"x", &signature).unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
        assert!(verify_signature(&key, b"", &signature[..63]).is_err());
        assert!(verify_signature(&[0xff; 32], b"", &signature).is_err());
        assert_eq!(key_of_certificate(&identity.certificate()), Ok(key));
    }

    #[test]
    fn fingerprints_are_those_of_openssl() {
        // openssl pkey -pubin -inform DER -outform DER of the key above, through sha256sum.
        let text = rfc_identity().fingerprint().to_string();
        assert_eq!(text, "sha256:06e3fd8fda29bb60ab59557de61edb0aecdb231134be30e75b455f8e1b792fa9");
        assert_eq!(text.parse::<Fingerprint>().unwrap(), rfc_identity().fingerprint());
        for bad in ["", "sha256:", &text[7..], &text[..70], &text.to_uppercase()] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn made_once_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Identity::load(folder.path(), "agent").unwrap().is_none());
        let made = Identity::load_or_create(folder.path(), "agent").unwrap();
        let found = Identity::load_or_create(folder.path(), "agent").unwrap();
        assert_eq!(made.fingerprint(), found.fingerprint());
        let names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["agent.key"]);
        let stat = std::fs::metadata(folder.path().join("agent.key")).unwrap();
        assert_eq!(stat.mode() & 0o7777, 0o600);
        assert!(!format!("{made:?}").contains("pkcs8"));
    }

    #[test]
    fn at_once_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let make = || Identity::load_or_create(folder.path(), "r").unwrap().fingerprint();
        let all = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
    }

    #[test]
    fn what_others_can_reach_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        Identity::load_or_create(folder.path(), "a").unwrap();
        let path = folder.path().join("a.key");
        for mode in [0o640, 0o604, 0o660, 0o601] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = Identity::load_or_create(folder.path(), "a").unwrap_err();
            assert_eq!(error.kind(), Kind::Denied);
            assert!(error.to_string().contains(&format!("0{mode:o}")), "{error}");
        }
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        symlink(&path, folder.path().join("b.key")).unwrap();
        let error = Identity::load_or_create(folder.path(), "b").unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error}");
        std::fs::create_dir(folder.path().join("c.key")).unwrap();
        let error = Identity::load(folder.path(), "c").unwrap_err();
        assert!(error.to_string().contains("no regular file"), "{error}");
        for name in ["", "../a", "a/b"] {
            assert_eq!(Identity::load(folder.path(), name).unwrap_err().kind(), Kind::Usage);
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.key");
        let pem = Identity::generate().unwrap().pem();
        for text in ["", "x", &pem[..60], &pem.replace('M', "N"), &"x".repeat(5000)] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            let error = Identity::load_or_create(folder.path(), "a").unwrap_err();
            assert!(matches!(error.kind(), Kind::Usage | Kind::Limit), "{error}");
        }
        std::fs::write(&path, pem.as_bytes()).unwrap();
        Identity::load(folder.path(), "a").unwrap().unwrap();
    }
}
