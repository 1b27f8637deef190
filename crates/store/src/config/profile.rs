//! Profiles of the AWS tools' shared credentials and config files.
//!
//! The form is that of the AWS SDK reference guide, "Shared config and credentials files":
//! sections `[name]`, in the config file `[profile name]`, with `key = value` lines. Nested
//! blocks, roles and processes are not followed.

use super::{Credentials, Secret, StoreSettings};
use carreto_error::{Error, Kind, Result};
use std::collections::BTreeMap;

/// The settings of `profile`, or none.
pub(super) fn parse(text: &str, profile: &str) -> Result<StoreSettings> {
    let values = section(text, profile);
    let value = |name: &str| values.get(name).map(|text| (*text).to_owned());
    let key = value("aws_access_key_id");
    let secret = value("aws_secret_access_key").map(Secret::new);
    let credentials = match (key, secret) {
        (None, None) => None,
        (Some(id), Some(secret)) => Some(Credentials::Key {
            id,
            secret,
            token: value("aws_session_token").map(Secret::new),
        }),
        _ => {
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "the profile {profile:?} has one of aws_access_key_id and aws_secret_access_key"
                ),
            ));
        }
    };
    Ok(StoreSettings {
        credentials,
        region: value("region"),
        endpoint: value("endpoint_url"),
        ..StoreSettings::default()
    })
}

fn section<'t>(text: &'t str, profile: &str) -> BTreeMap<&'t str, &'t str> {
    let mut inside = false;
    let mut values = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with([' ', '\t'])) {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            // What follows the bracket is a comment; a header without one has no name.
            let name = header.split_once(']').map_or("", |(name, _)| name.trim());
            let name = name.strip_prefix("profile ").map_or(name, str::trim);
            inside = name == profile;
        } else if inside
            && !line.starts_with(['#', ';'])
            && let Some((name, value)) = line.split_once('=')
            && let value = without_comment(value)
            && !value.is_empty()
        {
            values.insert(name.trim(), value);
        }
    }
    values
}

/// A value ends where a space and a comment sign follow it.
fn without_comment(value: &str) -> &str {
    let value = value.trim();
    let end = [" #", " ;", "\t#", "\t;"].iter().filter_map(|sign| value.find(sign)).min();
    end.map_or(value, |end| value[..end].trim())
}
