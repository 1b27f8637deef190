//! Reading the headers of a sparse extent of any layout.

use super::SECTOR;
use super::header::{self, Header};
use super::layout::Layout;
use super::{corrupt, cowd, sesparse, stream};
use crate::{OpenOptions, Warning};
use carreto_block::{Source, SourceExt as _};
use carreto_error::Result;

/// What stands at the start of a file.
pub(super) enum Magic {
    Hosted,
    Cowd,
    SeSparse,
    Other,
}

impl Magic {
    pub(super) fn of(head: &[u8]) -> Self {
        if head.starts_with(header::MAGIC) {
            Self::Hosted
        } else if head.starts_with(cowd::MAGIC) {
            Self::Cowd
        } else if head.starts_with(&sesparse::MAGIC) {
            Self::SeSparse
        } else {
            Self::Other
        }
    }
}

/// The first `len` bytes of `file`, or all.
pub(super) async fn head(file: &dyn Source, len: u64) -> Result<Vec<u8>> {
    head_of(file, len.min(file.size())).await
}

pub(super) async fn head_of(file: &dyn Source, len: u64) -> Result<Vec<u8>> {
    file.read_vec(0, usize::try_from(len).unwrap_or(usize::MAX)).await
}

/// Reads the headers of a sparse extent of any layout.
pub(super) async fn sparse_layout(
    file: &dyn Source,
    options: &OpenOptions,
    warnings: &mut Vec<Warning>,
) -> Result<Layout> {
    let head = head(file, SECTOR).await?;
    match Magic::of(&head) {
        Magic::Hosted => hosted_layout(file, &head, options, warnings).await,
        Magic::SeSparse => sesparse::layout(file, &head, &options.limits).await,
        Magic::Cowd => {
            let (header, layout) = cowd_layout(file, options).await?;
            warnings.extend(header.warnings());
            Ok(layout)
        }
        Magic::Other => Err(corrupt("the sparse extent has no known magic number").offset(0)),
    }
}

pub(super) async fn hosted_layout(
    file: &dyn Source,
    head: &[u8],
    options: &OpenOptions,
    warnings: &mut Vec<Warning>,
) -> Result<Layout> {
    let mut header = Header::parse(head)?;
    header.check(file.size(), &options.limits)?;
    warnings.extend(header.warnings());
    if header.directory_at_end() {
        header = stream::find_directory(file, &header, &options.limits, warnings).await?;
    } else if header.compressed() {
        stream::check_footer(file, &header, &options.limits).await?;
    }
    header.layout(file.size(), warnings)
}

pub(super) async fn cowd_layout(
    file: &dyn Source,
    options: &OpenOptions,
) -> Result<(cowd::Cowd, Layout)> {
    let header = cowd::Cowd::parse(&head(file, cowd::LEN).await?)?;
    let layout = header.layout(file.size(), &options.limits)?;
    Ok((header, layout))
}
