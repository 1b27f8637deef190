//! The `[store]` tables of the configuration file.
//!
//! Tables are walked by hand, because the texts of a general deserialiser repeat the values it
//! does not like, and a value can be a secret in the wrong place.

use super::settings::LONGEST;
use super::{Checksum, Credentials, Secret, StoreSettings};
use crate::url::Scheme;
use carreto_error::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::time::Duration;
use toml::{Table, Value};

/// The settings of the file, from the general to the special.
#[derive(Debug, Clone, Default)]
pub(super) struct FileSettings {
    general: StoreSettings,
    schemes: BTreeMap<Scheme, SchemeSettings>,
}

#[derive(Debug, Clone, Default)]
struct SchemeSettings {
    general: StoreSettings,
    buckets: BTreeMap<String, StoreSettings>,
}

impl FileSettings {
    pub(super) fn settings(&self, scheme: Scheme, bucket: &str) -> StoreSettings {
        let mut settings = self.general.clone();
        if let Some(section) = self.schemes.get(&scheme) {
            settings = settings.overlaid(&section.general);
            if let Some(special) = section.buckets.get(bucket) {
                settings = settings.overlaid(special);
            }
        }
        settings
    }
}

const SECTIONS: [(&str, Scheme); 5] = [
    ("s3", Scheme::S3),
    ("cos", Scheme::Cos),
    ("gs", Scheme::Gs),
    ("az", Scheme::Az),
    ("http", Scheme::Http),
];

pub(super) fn parse(text: &str) -> Result<FileSettings> {
    let mut file: Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error
            .span()
            .and_then(|span| text.get(..span.start))
            .map_or(1, |before| before.lines().count().max(1));
        usage(format!("the configuration file is not valid TOML near line {line}"))
    })?;
    let mut store = match file.remove("store") {
        None => return Ok(FileSettings::default()),
        Some(Value::Table(table)) => table,
        Some(_) => return Err(usage("store in the configuration file is not a table")),
    };
    let mut settings = FileSettings::default();
    for (name, scheme) in SECTIONS {
        if let Some(value) = store.remove(name) {
            let section = scheme_section(table(value, &format!("store.{name}"))?, name)?;
            settings.schemes.insert(scheme, section);
        }
    }
    settings.general = Section::new(store, "store").settings()?;
    Ok(settings)
}

fn scheme_section(mut fields: Table, name: &str) -> Result<SchemeSettings> {
    let path = format!("store.{name}");
    let mut section = SchemeSettings::default();
    if let Some(buckets) = fields.remove("buckets") {
        for (bucket, value) in table(buckets, &format!("{path}.buckets"))? {
            let path = format!("{path}.buckets.{bucket}");
            let fields = Section::new(table(value, &path)?, path);
            section.buckets.insert(bucket, fields.settings()?);
        }
    }
    section.general = Section::new(fields, path).settings()?;
    Ok(section)
}

fn usage(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Kind::Usage, text)
}

fn table(value: Value, path: &str) -> Result<Table> {
    match value {
        Value::Table(table) => Ok(table),
        _ => Err(usage(format!("{path} in the configuration file is not a table"))),
    }
}

/// One table; fields are taken out, and what is left over was misspelt.
struct Section {
    fields: Table,
    path: String,
}

impl Section {
    fn new(fields: Table, path: impl Into<String>) -> Self {
        Self { fields, path: path.into() }
    }

    fn settings(mut self) -> Result<StoreSettings> {
        let settings = StoreSettings {
            endpoint: self.text("endpoint")?,
            region: self.text("region")?,
            credentials: self.credentials()?,
            account: self.text("account")?,
            anonymous: self.flag("anonymous")?,
            allow_http: self.flag("allow_http")?,
            virtual_host: self.flag("virtual_host")?,
            proxy: self.secret("proxy")?,
            no_proxy: self.text("no_proxy")?,
            headers: self.headers()?,
            retry_for: self.duration("retry_for")?,
            read_timeout: self.duration("read_timeout")?,
            connect_timeout: self.duration("connect_timeout")?,
            min_progress: self.number("min_progress")?,
            max_requests: self
                .number("max_requests")?
                .map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
            part_size: self.number("part_size")?,
            accept_unversioned: self.flag("accept_unversioned")?,
            checksum: self.checksum()?,
        };
        match self.fields.keys().next() {
            Some(name) => Err(usage(format!(
                "{}.{name} in the configuration file is not a setting",
                self.path
            ))),
            None => Ok(settings),
        }
    }

    fn wrong(&self, name: &str, wanted: &str) -> Error {
        usage(format!("{}.{name} in the configuration file is not {wanted}", self.path))
    }

    fn text(&mut self, name: &str) -> Result<Option<String>> {
        match self.fields.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "a string")),
        }
    }

    fn checksum(&mut self) -> Result<Option<Checksum>> {
        let wanted = "\"auto\", \"crc64nvme\", \"sha256\" or \"none\"";
        let text = self.text("checksum")?;
        let parsed = text.map(|text| text.parse()).transpose();
        parsed.map_err(|()| self.wrong("checksum", wanted))
    }

    fn secret(&mut self, name: &str) -> Result<Option<Secret>> {
        Ok(self.text(name)?.map(Secret::new))
    }

    fn flag(&mut self, name: &str) -> Result<Option<bool>> {
        match self.fields.remove(name) {
            None => Ok(None),
            Some(Value::Boolean(flag)) => Ok(Some(flag)),
            Some(_) => Err(self.wrong(name, "true or false")),
        }
    }

    fn number(&mut self, name: &str) -> Result<Option<u64>> {
        match self.fields.remove(name) {
            None => Ok(None),
            Some(Value::Integer(number)) => u64::try_from(number)
                .map(Some)
                .map_err(|_| self.wrong(name, "a number of at least 0")),
            Some(_) => Err(self.wrong(name, "a number")),
        }
    }

    fn duration(&mut self, name: &str) -> Result<Option<Duration>> {
        let wanted = "a duration such as \"90s\", \"10m\" or \"1h\", of at most 365d";
        match self.fields.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => duration(&text)
                .filter(|time| *time <= LONGEST)
                .map(Some)
                .ok_or_else(|| self.wrong(name, wanted)),
            Some(_) => Err(self.wrong(name, wanted)),
        }
    }

    fn headers(&mut self) -> Result<BTreeMap<String, Secret>> {
        let Some(value) = self.fields.remove("headers") else {
            return Ok(BTreeMap::new());
        };
        let path = format!("{}.headers", self.path);
        let mut section = Self::new(table(value, &path)?, path);
        let names: Vec<String> = section.fields.keys().cloned().collect();
        names
            .into_iter()
            .filter_map(|name| match section.secret(&name) {
                Ok(value) => value.map(|value| Ok((name, value))),
                Err(error) => Some(Err(error)),
            })
            .collect()
    }

    fn credentials(&mut self) -> Result<Option<Credentials>> {
        let key = self.key()?;
        let path = |text: Option<String>| text.map(std::path::PathBuf::from);
        let all = [
            key,
            self.secret("bearer_token")?.map(Credentials::Bearer),
            self.secret("service_account_key")?.map(Credentials::ServiceAccountKey),
            path(self.text("service_account_file")?).map(Credentials::ServiceAccountFile),
            path(self.text("application_credentials")?).map(Credentials::ApplicationFile),
            self.secret("account_key")?.map(Credentials::AccountKey),
            self.secret("sas_token")?.map(Credentials::SharedAccess),
        ];
        let mut given = all.into_iter().flatten();
        match (given.next(), given.next()) {
            (first, None) => Ok(first),
            _ => Err(usage(format!(
                "{} in the configuration file has two kinds of credentials",
                self.path
            ))),
        }
    }

    fn key(&mut self) -> Result<Option<Credentials>> {
        let id = self.text("access_key_id")?;
        let secret = self.secret("secret_access_key")?;
        let token = self.secret("session_token")?;
        match (id, secret) {
            (None, None) if token.is_none() => Ok(None),
            (Some(id), Some(secret)) => Ok(Some(Credentials::Key { id, secret, token })),
            _ => Err(usage(format!(
                "{} in the configuration file needs both access_key_id and secret_access_key",
                self.path
            ))),
        }
    }
}

fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().ok()?;
    match unit.trim() {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" | "min" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        "d" => number.checked_mul(86_400).map(Duration::from_secs),
        _ => None,
    }
}
