//! The text that a VMDK describes itself with.
//!
//! Facts: VMware "Virtual Disk Format 5.0", "The Descriptor File"; the database entries are those
//! that vSphere asks for on import.

use super::{OutputFormat, WriteOptions};

/// Sectors that are set aside for the text.
pub(super) const SECTORS: u64 = 20;
const HEADS: u64 = 255;
const PER_TRACK: u64 = 63;
const LONGEST_NAME: usize = 512;

/// The descriptor of a disk of `sectors` sectors.
pub(super) fn descriptor(options: &WriteOptions, sectors: u64) -> String {
    let create_type = match options.format {
        OutputFormat::VmdkStream => "streamOptimized",
        _ => "monolithicSparse",
    };
    let long_id = format!("{:032x}", u128::from_be_bytes(options.id));
    // 0xffffffff stands for "no parent" and 0xfffffffe for "still being written".
    let cid = if long_id.get(24..31) == Some("fffffff") { "0fffffff" } else { &long_id[24..] };
    let cylinders = (sectors / (HEADS * PER_TRACK)).clamp(1, 65535);
    let name = file_name(&options.name);
    format!(
        "# Disk DescriptorFile\n\
         version=1\n\
         CID={cid}\n\
         parentCID=ffffffff\n\
         createType=\"{create_type}\"\n\
         \n\
         # Extent description\n\
         RW {sectors} SPARSE \"{name}\"\n\
         \n\
         # The Disk Data Base\n\
         #DDB\n\
         \n\
         ddb.adapterType = \"lsilogic\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"{HEADS}\"\n\
         ddb.geometry.sectors = \"{PER_TRACK}\"\n\
         ddb.longContentID = \"{long_id}\"\n\
         ddb.toolsInstallType = \"4\"\n\
         ddb.toolsVersion = \"2147483647\"\n\
         ddb.virtualHWVersion = \"4\"\n"
    )
}

/// The last part of a path, without what could end the line or the quotes.
fn file_name(path: &str) -> String {
    let last = path.rsplit(['/', '\\']).next().unwrap_or_default();
    let clean = |symbol: char| if symbol == '"' || symbol.is_control() { '_' } else { symbol };
    let mut name: String = last.chars().map(clean).collect();
    while name.len() > LONGEST_NAME {
        name.pop();
    }
    if name.is_empty() { "disk.vmdk".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_write_lines_of_its_own() {
        let mut options = WriteOptions::new(OutputFormat::VmdkSparse);
        options.name = "dir/a\"\nRW 1 FLAT \"passwd".to_owned();
        let text = descriptor(&options, 1);
        assert_eq!(text.matches("RW ").count(), 2, "one as the extent, one in its name: {text}");
        assert!(text.contains("SPARSE \"a__RW 1 FLAT _passwd\"\n"), "{text}");
        options.name = "é".repeat(1000);
        assert!(descriptor(&options, 1).len() < 2000);
    }
}
