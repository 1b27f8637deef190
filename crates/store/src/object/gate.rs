//! Opening the objects that images name, below a prefix that the user allowed.

use super::stores::ObjectStores;
use crate::url::ObjectUrl;
use async_trait::async_trait;
use carreto_block::{OpenBeneath, OpenedFile};
use carreto_error::Result;
use std::sync::Arc;

#[async_trait]
impl OpenBeneath for ObjectStores {
    /// Opens the object whose key is that of `directory`, a slash, and `relative`. An object store
    /// has no links, so a key that stays below the prefix as a text stays below it.
    ///
    /// The identity is the URL: the same key is the same file, even if somebody replaces it while
    /// a chain is opened.
    async fn open_beneath(&self, directory: &str, relative: &str) -> Result<OpenedFile> {
        let url = ObjectUrl::beneath(directory, relative)?;
        let source = self.open(&url).await?;
        let identity = source.identity().to_owned();
        Ok(OpenedFile { source: Arc::new(source), identity })
    }
}
