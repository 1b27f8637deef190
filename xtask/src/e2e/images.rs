//! The images of the suites: two disks in every format and subformat that qemu-img makes, and the
//! disk that qemu-img reads from each.

use super::{disk, process};
use crate::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How qemu-img is asked for an image.
struct Recipe {
    name: &'static str,
    /// The format as qemu calls it.
    qemu: &'static str,
    options: &'static str,
    compressed: bool,
    /// Whether it names other files.
    refers: bool,
}

const fn recipe(name: &'static str, qemu: &'static str, options: &'static str) -> Recipe {
    Recipe { name, qemu, options, compressed: false, refers: false }
}

const fn packed(name: &'static str, options: &'static str) -> Recipe {
    Recipe { compressed: true, ..recipe(name, "qcow2", options) }
}

const fn referring(name: &'static str, qemu: &'static str, options: &'static str) -> Recipe {
    Recipe { refers: true, ..recipe(name, qemu, options) }
}

const RECIPES: &[Recipe] = &[
    recipe("plain.raw", "raw", ""),
    recipe("v2.qcow2", "qcow2", "compat=0.10"),
    recipe("v3.qcow2", "qcow2", "compat=1.1"),
    recipe("cluster-512.qcow2", "qcow2", "cluster_size=512"),
    recipe("cluster-4k.qcow2", "qcow2", "cluster_size=4k"),
    recipe("cluster-2m.qcow2", "qcow2", "cluster_size=2M"),
    recipe("extended-l2.qcow2", "qcow2", "extended_l2=on"),
    recipe("preallocated.qcow2", "qcow2", "preallocation=metadata"),
    packed("v2-zlib.qcow2", "compat=0.10"),
    packed("zlib.qcow2", "compression_type=zlib"),
    packed("zlib-512.qcow2", "cluster_size=512"),
    packed("zlib-4k.qcow2", "cluster_size=4k"),
    packed("zlib-2m.qcow2", "cluster_size=2M"),
    packed("zstd.qcow2", "compression_type=zstd"),
    packed("zstd-4k.qcow2", "compression_type=zstd,cluster_size=4k"),
    packed("zstd-2m.qcow2", "compression_type=zstd,cluster_size=2M"),
    packed("extended-l2-zstd.qcow2", "compression_type=zstd,extended_l2=on"),
    referring("data-file.qcow2", "qcow2", "data_file=data-file.data"),
    referring("data-raw.qcow2", "qcow2", "data_file=data-raw.data,data_file_raw=on"),
    recipe("dynamic.vhd", "vpc", "subformat=dynamic"),
    recipe("dynamic-exact.vhd", "vpc", "subformat=dynamic,force_size=on"),
    recipe("fixed.vhd", "vpc", "subformat=fixed"),
    recipe("fixed-exact.vhd", "vpc", "subformat=fixed,force_size=on"),
    recipe("sparse.vmdk", "vmdk", "subformat=monolithicSparse"),
    recipe("stream.vmdk", "vmdk", "subformat=streamOptimized"),
    referring("split-sparse.vmdk", "vmdk", "subformat=twoGbMaxExtentSparse"),
    referring("split-flat.vmdk", "vmdk", "subformat=twoGbMaxExtentFlat"),
    referring("flat.vmdk", "vmdk", "subformat=monolithicFlat"),
];

/// The two disks: a plain one, and one whose size no cluster, grain or block divides.
const DISKS: &[(&str, u64)] = &[("even", 64 << 20), ("odd", (5 << 20) + 1536)];

/// An image and what qemu-img says of it.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    /// The disk and the recipe, for messages and for object names: `odd/v2.qcow2`.
    pub(crate) label: String,
    pub(crate) path: PathBuf,
    /// The format as Carreto calls it.
    pub(crate) format: &'static str,
    /// Whether it names other files of its folder.
    pub(crate) refers: bool,
    pub(crate) virtual_size: u64,
    /// The content as qemu-img reads it.
    pub(crate) disk: PathBuf,
}

/// Makes all images below `folder`.
pub(crate) fn make(folder: &Path) -> Result<Vec<Image>> {
    let mut images = Vec::new();
    for (seed, (name, size)) in (1..).zip(DISKS) {
        println!("making the images of the disk {name} ({size} bytes)");
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder)?;
        disk::write(&folder.join("disk"), *size, seed)?;
        for recipe in RECIPES {
            images.push(convert(&folder, name, recipe)?);
        }
        images.push(chain(&folder, name, *size)?);
    }
    images.push(odd_bytes(folder)?);
    Ok(images)
}

/// The image `label` among `images`.
pub(crate) fn find<'a>(images: &'a [Image], label: &str) -> Result<&'a Image> {
    let image = images.iter().find(|image| image.label == label);
    image.ok_or_else(|| format!("no image {label} was made").into())
}

fn qemu_img(folder: &Path) -> Command {
    let mut command = Command::new("qemu-img");
    // qemu resolves the name of a data file against the current folder.
    command.current_dir(folder);
    command
}

fn convert(folder: &Path, disk: &str, recipe: &Recipe) -> Result<Image> {
    let mut command = qemu_img(folder);
    command.args(["convert", "-q", "-f", "raw", "-O", recipe.qemu]);
    if recipe.compressed {
        command.arg("-c");
    }
    if !recipe.options.is_empty() {
        command.args(["-o", recipe.options]);
    }
    process::succeed(command.args(["disk", recipe.name]))?;
    examine(folder, disk, recipe)
}

/// What qemu-img says of an image: its size and its content.
fn examine(folder: &Path, disk: &str, recipe: &Recipe) -> Result<Image> {
    let (qemu, name) = (recipe.qemu, recipe.name);
    let info = ["info", "--output=json", "-f", qemu, name];
    let info = process::succeed(qemu_img(folder).args(info))?;
    let info: serde_json::Value = serde_json::from_str(&info)?;
    let size = info["virtual-size"].as_u64();
    let content = format!("{name}.content");
    let read = ["convert", "-q", "-f", qemu, "-O", "raw", name, &content];
    process::succeed(qemu_img(folder).args(read))?;
    Ok(Image {
        label: format!("{disk}/{name}"),
        path: folder.join(name),
        format: if qemu == "vpc" { "vhd" } else { qemu },
        refers: recipe.refers,
        virtual_size: size.ok_or("qemu-img info has no virtual-size")?,
        disk: folder.join(content),
    })
}

/// A chain of three: a raw disk, an overlay with subclusters, and a small-clustered one on top.
fn chain(folder: &Path, disk: &str, size: u64) -> Result<Image> {
    let top = referring("chain.qcow2", "qcow2", "");
    let middle = "chain-middle.qcow2";
    let create = |base: &str, format: &str, options: &str, name: &str| {
        let arguments = ["create", "-q", "-f", "qcow2", "-b", base, "-F", format];
        let command = &mut qemu_img(folder);
        process::succeed(command.args(arguments).args(["-o", options, name]))
    };
    let write = |name: &str, commands: &[String]| {
        let mut command = Command::new("qemu-io");
        command.current_dir(folder).args(["-f", "qcow2"]);
        for text in commands {
            command.args(["-c", text]);
        }
        process::succeed(command.arg(name))
    };
    create("plain.raw", "raw", "extended_l2=on", middle)?;
    let last = size / 512 * 512 - 512;
    let writes = [
        "write -P 81 66048 1536".to_owned(),
        "write -z 1048576 300032".to_owned(),
        format!("write -P 82 {} 70144", size / 2 / 512 * 512),
        format!("write -P 83 {last} 512"),
    ];
    write(middle, &writes)?;
    create(middle, "qcow2", "cluster_size=4k", top.name)?;
    let writes = [
        "write -P 84 66560 512".to_owned(),
        "write -z 131072 8192".to_owned(),
        format!("write -c -P 85 {} 4096", size / 3 / 4096 * 4096),
    ];
    write(top.name, &writes)?;
    examine(folder, disk, &top)
}

/// A raw disk that is no whole number of sectors. qemu-img would round it up, so its content is
/// the file itself.
fn odd_bytes(folder: &Path) -> Result<Image> {
    let path = folder.join("odd-bytes.raw");
    let virtual_size = 1_000_003;
    disk::write(&path, virtual_size, 99)?;
    Ok(Image {
        label: "odd-bytes.raw".to_owned(),
        disk: path.clone(),
        path,
        format: "raw",
        refers: false,
        virtual_size,
    })
}
