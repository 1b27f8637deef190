//! Names of other files as images of other systems have them.

/// The name as a path with plain slashes; `None` for what only means something on the machine
/// that the image comes from: drives and network shares.
pub(crate) fn path_here(text: &str) -> Option<String> {
    let text = text.strip_prefix("file://").unwrap_or(text);
    let path = text.replace('\\', "/");
    let drive = path.as_bytes().get(1) == Some(&b':');
    let rooted_on_windows = path.starts_with('/') && text.contains('\\');
    if drive || rooted_on_windows || path.starts_with("//") {
        return None;
    }
    let mut rest = path.as_str();
    while let Some(shorter) = rest.strip_prefix("./") {
        rest = shorter.trim_start_matches('/');
    }
    (!rest.is_empty()).then(|| rest.to_owned())
}

/// The last part of a path of any system, without the drive.
pub(crate) fn base_name(text: &str) -> Option<String> {
    let base = text.rsplit(['/', '\\']).next()?;
    let base = if base.as_bytes().get(1) == Some(&b':') { base.get(2..)? } else { base };
    (!matches!(base, "" | "." | "..")).then(|| base.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{base_name, path_here};

    #[test]
    fn windows_names_become_plain_ones() {
        let table = [
            (".\\base.vhd", Some("base.vhd")),
            ("..\\up\\base.vhd", Some("../up/base.vhd")),
            ("./base.vhd", Some("base.vhd")),
            ("file://./base.vhd", Some("base.vhd")),
            ("file:///srv/base.vhd", Some("/srv/base.vhd")),
            ("base.vhd", Some("base.vhd")),
            ("C:\\disks\\base.vhd", None),
            ("c:base.vhd", None),
            ("\\\\server\\share\\base.vhd", None),
            ("//server/share/base.vhd", None),
            ("\\\\?\\C:\\base.vhd", None),
            ("\\base.vhd", None),
            (".\\", None),
        ];
        for (name, wanted) in table {
            assert_eq!(path_here(name).as_deref(), wanted, "{name}");
        }
    }

    #[test]
    fn the_last_part_of_any_path_is_found() {
        for name in ["C:\\a\\b.vhd", "\\\\s\\x\\b.vhd", "/a/b.vhd", "c:b.vhd", "b.vhd"] {
            assert_eq!(base_name(name).as_deref(), Some("b.vhd"), "{name}");
        }
        for name in ["", "..", "a\\..", "C:\\"] {
            assert_eq!(base_name(name), None, "{name}");
        }
    }
}
