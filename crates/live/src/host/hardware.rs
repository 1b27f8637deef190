//! What hardware says of itself, made fit to print.

use super::machine::BlockDevice;

/// The serial number.
pub(super) fn serial(device: &BlockDevice) -> Option<String> {
    let scsi = || {
        let page = device.bytes("device/vpd_pg80")?;
        let length = usize::from(u16::from_be_bytes([*page.get(2)?, *page.get(3)?]));
        let text = page.get(4..4_usize.checked_add(length)?)?;
        clean(&String::from_utf8_lossy(text))
    };
    let plain = ["serial", "device/serial"];
    plain.into_iter().find_map(|name| one_line(device, name)).or_else(scsi)
}

/// An attribute in printable characters, white space collapsed; none when nothing is left.
pub(super) fn one_line(device: &BlockDevice, attribute: &str) -> Option<String> {
    clean(&String::from_utf8_lossy(&device.bytes(attribute)?))
}

fn clean(text: &str) -> Option<String> {
    let text: String = text.chars().map(|c| if c.is_ascii_graphic() { c } else { ' ' }).collect();
    let words: Vec<_> = text.split_whitespace().collect();
    (!words.is_empty()).then(|| words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hardware_says_is_cleaned() {
        assert_eq!(clean(" a\u{1b}[31m\0\0 b "), Some("a [31m b".to_owned()));
        assert_eq!(clean("\0 \n"), None);
    }
}
