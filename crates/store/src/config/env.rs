//! The standard environment variables of the clouds.
//!
//! Names as their own tools document them: the AWS SDK reference guide ("Environment variables"),
//! Tencent Cloud CLI and COSCLI, Google Cloud client libraries, and the Azure CLI and `AzCopy`.

use super::{Checksum, Credentials, Secret, StoreSettings};
use crate::url::Scheme;
use carreto_error::{Error, Kind, Result};
use std::collections::BTreeMap;

/// The variables that are set, by name.
struct Variables(BTreeMap<String, String>);

impl Variables {
    /// The first of `names` that is set and not empty.
    fn first(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| self.0.get(*name)).cloned()
    }

    fn secret(&self, names: &[&str]) -> Option<Secret> {
        self.first(names).map(Secret::new)
    }

    fn flag(&self, name: &str) -> Result<Option<bool>> {
        match self.0.get(name).map(|text| text.to_ascii_lowercase()) {
            None => Ok(None),
            Some(text) if ["1", "true", "yes", "on"].contains(&text.as_str()) => Ok(Some(true)),
            Some(text) if ["0", "false", "no", "off"].contains(&text.as_str()) => Ok(Some(false)),
            Some(_) => Err(Error::new(
                Kind::Usage,
                format!("the variable {name} is neither true nor false"),
            )),
        }
    }

    /// The checksum by its name; `when_required` of the AWS tools' own variable is none.
    fn checksum(&self, name: &str, tools: &str) -> Result<Option<Checksum>> {
        let wrong = |name: &str, wanted: &str| {
            Error::new(Kind::Usage, format!("the variable {name} is not {wanted}"))
        };
        if let Some(text) = self.0.get(name) {
            let wanted = "auto, crc64nvme, sha256 or none";
            return text.parse().map(Some).map_err(|()| wrong(name, wanted));
        }
        match self.0.get(tools).map(|text| text.to_ascii_lowercase()).as_deref() {
            None => Ok(None),
            Some("when_supported") => Ok(Some(Checksum::Auto)),
            Some("when_required") => Ok(Some(Checksum::None)),
            Some(_) => Err(wrong(tools, "when_supported or when_required")),
        }
    }

    /// A key and its secret. Half of one is no error here: the run may not need a store.
    fn key(&self, id: &[&str], secret: &[&str], token: &[&str]) -> Option<Credentials> {
        match (self.first(id), self.secret(secret)) {
            (None, None) => None,
            (Some(id), Some(secret)) => {
                Some(Credentials::Key { id, secret, token: self.secret(token) })
            }
            (found, _) => {
                let missing = if found.is_some() { secret } else { id };
                Some(Credentials::Incomplete { missing: format!("the variable {}", missing[0]) })
            }
        }
    }
}

/// The settings of each scheme.
pub(super) fn parse<N, V>(
    variables: impl IntoIterator<Item = (N, V)>,
) -> Result<BTreeMap<Scheme, StoreSettings>>
where
    N: AsRef<str>,
    V: AsRef<str>,
{
    let variables = Variables(
        variables
            .into_iter()
            .map(|(name, value)| (name.as_ref().to_owned(), value.as_ref().to_owned()))
            .filter(|(_, value)| !value.is_empty())
            .collect(),
    );
    let general = StoreSettings {
        proxy: variables.secret(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]),
        no_proxy: variables.first(&["NO_PROXY", "no_proxy"]),
        ..StoreSettings::default()
    };
    Ok(BTreeMap::from([
        (Scheme::S3, general.clone().overlaid(&aws(&variables)?)),
        (Scheme::Cos, general.clone().overlaid(&cos(&variables)?)),
        (Scheme::Gs, general.clone().overlaid(&google(&variables))),
        (Scheme::Az, general.clone().overlaid(&azure(&variables))),
        (Scheme::Http, general),
    ]))
}

fn aws(variables: &Variables) -> Result<StoreSettings> {
    Ok(StoreSettings {
        endpoint: variables.first(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]),
        region: variables.first(&["AWS_REGION", "AWS_DEFAULT_REGION"]),
        credentials: variables.key(
            &["AWS_ACCESS_KEY_ID"],
            &["AWS_SECRET_ACCESS_KEY"],
            &["AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"],
        ),
        allow_http: variables.flag("AWS_ALLOW_HTTP")?,
        virtual_host: variables.flag("AWS_VIRTUAL_HOSTED_STYLE_REQUEST")?,
        anonymous: variables.flag("AWS_SKIP_SIGNATURE")?,
        checksum: variables
            .checksum("AWS_CHECKSUM_ALGORITHM", "AWS_REQUEST_CHECKSUM_CALCULATION")?,
        ..StoreSettings::default()
    })
}

fn cos(variables: &Variables) -> Result<StoreSettings> {
    let own =
        variables.key(&["COS_SECRET_ID"], &["COS_SECRET_KEY"], &["COS_SESSION_TOKEN", "COS_TOKEN"]);
    let general = variables.key(
        &["TENCENTCLOUD_SECRET_ID"],
        &["TENCENTCLOUD_SECRET_KEY"],
        &["TENCENTCLOUD_SESSION_TOKEN", "TENCENTCLOUD_TOKEN"],
    );
    Ok(StoreSettings {
        endpoint: variables.first(&["COS_ENDPOINT"]),
        region: variables.first(&["COS_REGION", "TENCENTCLOUD_REGION"]),
        credentials: own.or(general),
        allow_http: variables.flag("COS_ALLOW_HTTP")?,
        checksum: variables.checksum("COS_CHECKSUM_ALGORITHM", "")?,
        ..StoreSettings::default()
    })
}

fn google(variables: &Variables) -> StoreSettings {
    let key = variables.secret(&["GOOGLE_SERVICE_ACCOUNT_KEY"]).map(Credentials::ServiceAccountKey);
    let account = variables
        .first(&["GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH"])
        .map(|path| Credentials::ServiceAccountFile(path.into()));
    let token = variables.secret(&["GOOGLE_OAUTH_ACCESS_TOKEN"]).map(Credentials::Bearer);
    let file = variables
        .first(&["GOOGLE_APPLICATION_CREDENTIALS"])
        .map(|path| Credentials::ApplicationFile(path.into()));
    StoreSettings {
        endpoint: variables.first(&["GOOGLE_ENDPOINT_URL"]),
        credentials: key.or(account).or(token).or(file),
        ..StoreSettings::default()
    }
}

fn azure(variables: &Variables) -> StoreSettings {
    let key = variables
        .secret(&["AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCESS_KEY"])
        .map(Credentials::AccountKey);
    let signature = variables
        .secret(&["AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY"])
        .map(Credentials::SharedAccess);
    let token = variables.secret(&["AZURE_STORAGE_TOKEN"]).map(Credentials::Bearer);
    StoreSettings {
        endpoint: variables.first(&["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"]),
        account: variables.first(&["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"]),
        credentials: key.or(signature).or(token),
        ..StoreSettings::default()
    }
}
