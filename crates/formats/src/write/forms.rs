//! Forms as bytes, for checkpoints: runs of equal forms, as pairs of variable-length numbers.

use super::Form;

/// `forms` in as few bytes as runs of equal ones allow.
pub fn forms_to_bytes(forms: &[Form]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for run in forms.chunk_by(|a, b| a == b) {
        push(&mut bytes, run.len() as u64);
        push(&mut bytes, number(run[0]));
    }
    bytes
}

/// What [`forms_to_bytes`] was given; `None` when the bytes are not its, or are of more than
/// `most` forms.
pub fn forms_from_bytes(mut bytes: &[u8], most: usize) -> Option<Vec<Form>> {
    let mut forms = Vec::new();
    while !bytes.is_empty() {
        let (count, rest) = take(bytes)?;
        let (form, rest) = take(rest)?;
        let count = usize::try_from(count).ok()?;
        if count == 0 || count > most - forms.len() {
            return None;
        }
        let form = match form {
            0 => Form::Zero,
            1 => Form::Plain,
            len => Form::Packed(u32::try_from(len - 2).ok()?),
        };
        forms.extend(std::iter::repeat_n(form, count));
        bytes = rest;
    }
    Some(forms)
}

const fn number(form: Form) -> u64 {
    match form {
        Form::Zero => 0,
        Form::Plain => 1,
        Form::Packed(len) => len as u64 + 2,
    }
}

/// Seven bits a byte, the low ones first, the top bit set where more follow.
fn push(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(0x80 | (number & 0x7F) as u8);
        number >>= 7;
    }
    bytes.push((number & 0x7F) as u8);
}

fn take(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (index, byte) in bytes.iter().enumerate().take(9) {
        number |= u64::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_come_back_and_nonsense_does_not() {
        let forms = [
            vec![Form::Zero; 300],
            vec![Form::Plain, Form::Packed(0), Form::Packed(65_535), Form::Packed(u32::MAX)],
            vec![Form::Plain; 2],
        ]
        .concat();
        let bytes = forms_to_bytes(&forms);
        assert!(bytes.len() < 30, "{}", bytes.len());
        assert_eq!(forms_from_bytes(&bytes, forms.len()), Some(forms.clone()));
        assert_eq!(forms_from_bytes(&bytes, forms.len() - 1), None);
        assert_eq!(forms_from_bytes(&bytes[..bytes.len() - 1], 1000), None);
        assert_eq!(forms_from_bytes(&[0, 1], 1000), None, "an empty run");
        assert_eq!(forms_from_bytes(&[0xFF; 20], 1000), None);
    }
}
