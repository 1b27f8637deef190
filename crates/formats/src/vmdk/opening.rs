//! Putting an image together: descriptor, extents, parent.

use super::descriptor::{self, Descriptor};
use super::disk::{Body, Disk, Parts};
use super::flat::Flat;
use super::header::{Header, MAX_DESCRIPTOR};
use super::layout::Layout;
use super::line::{ExtentLine, ExtentType};
use super::policy::{MAX_FILES, lone_part, refuse_access, refuse_kind, too_many_files};
use super::reading::{Magic, cowd_layout, head, head_of, hosted_layout, sparse_layout};
use super::sparse::Sparse;
use super::tables::Tables;
use super::{SECTOR, corrupt, inside, sectors_to_bytes};
use crate::names::{base_name, path_here};
use crate::{BackingInfo, Chained, Format, Image, ImageInfo, OpenOptions, Warning};
use carreto_block::{FileId, OpenGate, OpenRequest, ReferenceRole, Source, SourceExt as _};
use carreto_error::{Class, Error, Kind, Result, ResultExt as _};
use std::collections::HashMap;
use std::sync::Arc;

/// An image and what a child of it has to compare.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) image: Arc<dyn Image>,
    cid: Option<u32>,
}

/// Opens the image in `file` and its parents.
pub(super) async fn open(
    file: Arc<dyn Source>,
    options: &OpenOptions,
    gate: &OpenGate,
) -> Result<Opened> {
    let name = file.name().to_owned();
    let opening = Opening { file, options, gate, warnings: Vec::new() };
    opening.run().await.or_path(&name)
}

struct Opening<'a> {
    file: Arc<dyn Source>,
    options: &'a OpenOptions,
    gate: &'a OpenGate,
    warnings: Vec<Warning>,
}

impl Opening<'_> {
    async fn run(self) -> Result<Opened> {
        let head = head(self.file.as_ref(), SECTOR).await?;
        match Magic::of(&head) {
            Magic::Hosted => self.hosted(&head).await,
            Magic::Cowd => self.lone_cowd().await,
            Magic::SeSparse => Err(lone_part("seSparse")),
            Magic::Other => self.descriptor_file(&head).await,
        }
    }

    /// An extent that holds its own descriptor.
    async fn hosted(mut self, head: &[u8]) -> Result<Opened> {
        let header = Header::parse(head)?;
        let size = self.file.size();
        header.check(size, &self.options.limits)?;
        let Some((offset, len)) = header.descriptor(size)? else {
            return Err(lone_part("sparse"));
        };
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let text = self.file.read_vec(offset, len).await?;
        let descriptor = Descriptor::parse_embedded(&text).map_err(|error| error.offset(offset))?;
        let text_len = text.iter().position(|byte| *byte == 0).unwrap_or(len);
        drop(text);
        refuse_kind(&descriptor, false)?;
        self.compare(&descriptor, &header)?;
        let default = if header.compressed() { "streamOptimized" } else { "monolithicSparse" };
        let parent = self.parent(&descriptor).await?;
        let mut layout =
            hosted_layout(self.file.as_ref(), head, self.options, &mut self.warnings).await?;
        layout.descriptor = Some((offset, text_len as u64));
        let details = vec![
            ("header_version", header.version.to_string()),
            ("compression", if header.compressed() { "zlib" } else { "none" }.to_owned()),
        ];
        let mut parts = Parts::new();
        parts.files.push(Arc::clone(&self.file));
        push_sparse(&mut parts, FileId(0), layout, None)?;
        self.finish(&descriptor, default, parts, parent, details)
    }

    /// The embedded descriptor must speak of one sparse extent. Its name is often another file's
    /// and is not looked at; where its size differs, the header is right.
    fn compare(&mut self, descriptor: &Descriptor, header: &Header) -> Result<()> {
        if descriptor.extents.len() > 1 {
            let text = format!(
                "the embedded descriptor lists {} extents, only this one is here",
                descriptor.extents.len()
            );
            return Err(Error::new(Kind::Unsupported, text));
        }
        if let Some(line) = descriptor.extents.first() {
            if line.kind != ExtentType::Sparse {
                let text = "the embedded descriptor calls its sparse extent something else";
                return Err(corrupt(text));
            }
            refuse_access(line)?;
            let size = line.sectors.checked_mul(SECTOR);
            if size != Some(header.capacity()) {
                let text = format!(
                    "the descriptor says {} sectors, the header {} bytes, which count",
                    line.sectors,
                    header.capacity()
                );
                self.warnings.push(Warning::new("capacity_differs", text));
            }
        } else {
            let text = "the embedded descriptor lists no extent";
            self.warnings.push(Warning::new("descriptor", text));
        }
        for line in &descriptor.strange {
            let text = format!("the descriptor has a line that means nothing: {line:?}");
            self.warnings.push(Warning::new("descriptor", text));
        }
        Ok(())
    }

    /// A COWD extent without a descriptor file: a whole disk only if it has no parent.
    async fn lone_cowd(mut self) -> Result<Opened> {
        let (header, layout) = cowd_layout(self.file.as_ref(), self.options).await?;
        if !header.is_root() {
            return Err(lone_part("vmfsSparse"));
        }
        self.warnings.extend(header.warnings());
        let text = "there is no descriptor, so this may be one part of a larger disk";
        self.warnings.push(Warning::new("no_descriptor", text));
        let mut parts = Parts::new();
        parts.files.push(Arc::clone(&self.file));
        push_sparse(&mut parts, FileId(0), layout, None)?;
        self.finish(&Descriptor::default(), "vmfsSparse", parts, None, Vec::new())
    }

    /// A text that names its extents.
    async fn descriptor_file(mut self, head: &[u8]) -> Result<Opened> {
        let len = self.file.size().min(MAX_DESCRIPTOR + 1);
        if !descriptor::looks_like_one(head) && len > MAX_DESCRIPTOR {
            return Err(corrupt("there is neither a VMDK header nor a descriptor").offset(0));
        }
        let text = head_of(self.file.as_ref(), len).await?;
        if !descriptor::looks_like_one(&text) {
            return Err(corrupt("there is neither a VMDK header nor a descriptor").offset(0));
        }
        if self.file.size() > MAX_DESCRIPTOR {
            let text = format!("the descriptor is longer than {MAX_DESCRIPTOR} bytes");
            return Err(Error::new(Kind::Limit, text));
        }
        let descriptor = Descriptor::parse_file(&text)?;
        let names = descriptor
            .extents
            .iter()
            .map(|extent| descriptor.file_name(extent))
            .collect::<Result<Vec<_>>>()?;
        refuse_kind(&descriptor, true)?;
        self.refuse_size(&descriptor)?;
        let parent = self.parent(&descriptor).await?;
        let parts = self.extents(&descriptor, &names).await?;
        self.finish(&descriptor, "", parts, parent, Vec::new())
    }

    fn refuse_size(&self, descriptor: &Descriptor) -> Result<()> {
        let mut total = Some(0_u64);
        for extent in &descriptor.extents {
            refuse_access(extent)?;
            total = total
                .zip(sectors_to_bytes(extent.sectors))
                .and_then(|(total, size)| total.checked_add(size));
        }
        match total {
            Some(total) if total <= self.options.limits.max_virtual_size => Ok(()),
            _ => {
                let most = self.options.limits.max_virtual_size;
                let text = format!("the extents add up to more than {most} bytes");
                Err(Error::new(Kind::Limit, text))
            }
        }
    }

    async fn extents(
        &mut self,
        descriptor: &Descriptor,
        names: &[Option<String>],
    ) -> Result<Parts> {
        let mut parts = Parts::new();
        parts.files.push(Arc::clone(&self.file));
        let mut opened = HashMap::new();
        for (line, name) in descriptor.extents.iter().zip(names) {
            let len = line.sectors.saturating_mul(SECTOR);
            let Some(name) = name else {
                parts.push(len, Body::Zero)?;
                continue;
            };
            let id = if let Some(id) = opened.get(name.as_str()) {
                *id
            } else {
                let request = self.request(name, ReferenceRole::Extent);
                let (source, _) = self.gate.open(request).await?;
                let id = FileId(u16::try_from(parts.files.len()).map_err(|_| too_many_files())?);
                parts.files.push(source);
                opened.insert(name.as_str(), id);
                id
            };
            self.extent(&mut parts, line, id)
                .await
                .map_err(|error| error.wrap(format!("the extent {name:?} cannot be read")))?;
        }
        Ok(parts)
    }

    fn request<'r>(&'r self, name: &'r str, role: ReferenceRole) -> OpenRequest<'r> {
        OpenRequest { referrer: self.file.name(), name, role }
    }

    async fn extent(&mut self, parts: &mut Parts, line: &ExtentLine, id: FileId) -> Result<()> {
        let source = Arc::clone(&parts.files[usize::from(id.0)]);
        let len = line.sectors.saturating_mul(SECTOR);
        if line.kind == ExtentType::Flat {
            let offset = sectors_to_bytes(line.offset)
                .ok_or_else(|| corrupt(format!("the extent starts at sector {}", line.offset)))?;
            inside("the extent", offset, len, source.size()).or_path(source.name())?;
            return parts.push(len, Body::Flat(Flat { source, file: id, offset }));
        }
        let layout = sparse_layout(source.as_ref(), self.options, &mut self.warnings)
            .await
            .or_path(source.name())?;
        push_sparse(parts, id, layout, Some(len)).or_path(source.name())
    }

    /// Opens the parent that the descriptor names, if it names one.
    async fn parent(&self, descriptor: &Descriptor) -> Result<Option<Parent>> {
        let Some((cid, hint)) = descriptor.parent()? else {
            return Ok(None);
        };
        let mut failures = Failures::default();
        for name in candidates(&hint) {
            let request = self.request(&name, ReferenceRole::Parent);
            let (file, gate) = match self.gate.open(request).await {
                Ok(opened) => opened,
                Err(error) => {
                    failures.unopened(error)?;
                    continue;
                }
            };
            match self.open_parent(file, &gate, &name, cid).await {
                Ok(image) => return Ok(Some(Parent { name: hint, cid, image })),
                Err(error) => failures.unfit(error)?,
            }
        }
        Err(failures.verdict(&hint))
    }

    async fn open_parent(
        &self,
        file: Arc<dyn Source>,
        gate: &OpenGate,
        name: &str,
        cid: u32,
    ) -> Result<Arc<dyn Image>> {
        let options = self.options.for_reference(Format::Vmdk);
        let opened = Box::pin(open(file, &options, gate)).await?;
        if opened.cid == Some(cid) {
            return Ok(opened.image);
        }
        let found = opened.cid.map_or("none".to_owned(), |cid| format!("{cid:08x}"));
        let text = format!(
            "the parent {name:?} has the CID {found}, expected {cid:08x}: it was changed \
             after the child was made, or is another disk"
        );
        Err(corrupt(text))
    }

    fn finish(
        mut self,
        descriptor: &Descriptor,
        default_type: &str,
        parts: Parts,
        parent: Option<Parent>,
        mut details: Vec<(&'static str, String)>,
    ) -> Result<Opened> {
        let base_files = parent.as_ref().map_or(0, |parent| parent.image.files().len());
        if parts.files.len() + base_files > MAX_FILES {
            return Err(too_many_files());
        }
        if let Some(parent) = &parent {
            details.push(("parent_cid", format!("{:08x}", parent.cid)));
            if parent.image.size() != parts.size {
                let text = format!(
                    "the parent has {} bytes, this disk {}",
                    parent.image.size(),
                    parts.size
                );
                self.warnings.push(Warning::new("parent_size", text));
            }
        }
        details.extend(descriptor.cid.map(|cid| ("cid", format!("{cid:08x}"))));
        details.extend(descriptor.details.iter().cloned());
        let subformat = match descriptor.create_type.as_str() {
            "" => default_type,
            written => written,
        };
        let info = ImageInfo {
            format: Format::Vmdk,
            subformat: subformat.to_owned(),
            virtual_size: parts.size,
            file_size: parts.files.iter().map(|file| file.size()).fold(0, u64::saturating_add),
            cluster_size: parts.grain(),
            backing: parent.as_ref().map(|parent| BackingInfo {
                name: parent.name.clone(),
                format: Some(Format::Vmdk),
            }),
            warnings: self.warnings,
            details,
        };
        let name = self.file.name().to_owned();
        let disk: Arc<dyn Image> = Arc::new(Disk::new(name, info, parts, parent.is_some()));
        let image = match parent {
            Some(parent) => Arc::new(Chained::new(disk, parent.image)),
            None => disk,
        };
        let cid = descriptor.cid;
        Ok(Opened { image, cid })
    }
}

/// Where the parent may be: beside the child more often than where the hint says.
fn candidates(hint: &str) -> Vec<String> {
    let mut list: Vec<String> = base_name(hint).into_iter().collect();
    list.extend(path_here(hint).filter(|path| !list.contains(path)));
    if list.is_empty() {
        list.push(hint.to_owned());
    }
    list
}

/// Why no candidate is the parent. What is wrong with a file that was found says more than that
/// another was not found, and that more than that a third is not allowed.
#[derive(Debug, Default)]
struct Failures {
    unfit: Option<Error>,
    missing: Option<Error>,
    refused: Option<Error>,
}

impl Failures {
    /// Notes that a candidate cannot be opened.
    ///
    /// # Errors
    /// `error`, unless the next candidate may do better.
    fn unopened(&mut self, error: Error) -> Result<()> {
        let place = match error.kind() {
            Kind::NotFound => &mut self.missing,
            Kind::Unsafe => &mut self.refused,
            _ => return Err(error),
        };
        place.get_or_insert(error);
        Ok(())
    }

    /// Notes that a candidate is not the parent, or is a damaged one.
    ///
    /// # Errors
    /// `error`, unless it is about the candidate.
    fn unfit(&mut self, error: Error) -> Result<()> {
        if matches!(error.class(), Class::ImageMetadataUnavailable)
            || error.kind() == Kind::NotFound
        {
            self.unfit.get_or_insert(error);
            return Ok(());
        }
        Err(error)
    }

    fn verdict(self, hint: &str) -> Error {
        let first = self.unfit.or(self.missing).or(self.refused);
        let text = format!("the parent {hint:?} cannot be opened");
        match first {
            Some(error) => error.wrap(text),
            None => Error::new(Kind::NotFound, text),
        }
    }
}

/// A parent that is open and has the right CID.
struct Parent {
    name: String,
    cid: u32,
    image: Arc<dyn Image>,
}

/// Appends a sparse extent. A descriptor's line may count fewer sectors than the extent has only
/// where the extent was rounded up to whole grains.
fn push_sparse(parts: &mut Parts, file: FileId, layout: Layout, line: Option<u64>) -> Result<()> {
    let len = line.unwrap_or(layout.capacity);
    let rounded = len.div_ceil(layout.grain).saturating_mul(layout.grain);
    if layout.capacity != len && layout.capacity != rounded {
        let text =
            format!("the descriptor gives the extent {len} bytes, its header {}", layout.capacity);
        return Err(corrupt(text));
    }
    let extent = u32::try_from(parts.pieces.len()).map_err(|_| too_many_files())?;
    let tables = Tables {
        file: Arc::clone(&parts.files[usize::from(file.0)]),
        layout,
        cache: Arc::clone(&parts.cache),
        extent,
    };
    parts.push(len, Body::Sparse(Box::new(Sparse { tables, file })))
}
