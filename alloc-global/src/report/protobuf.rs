//! The part of the protocol buffers' wire format that a profile needs.
//!
//! ```text
//! field = tag, value     tag = number << 3 | kind     kind 0: varint     kind 2: length, bytes
//! varint = 7 bits a byte, the lowest first, the top bit set in all but the last
//! ```
//!
//! Zeros and empty texts are left out, as proto3 has it; inside packed fields and repeated messages
//! they are kept.
//!
//! No unsafe here.

/// A message in the making.
#[derive(Default)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// An unsigned number, a boolean or an index.
    pub(super) fn uint(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.varint(u64::from(field) << 3);
            self.varint(value);
        }
    }

    /// A signed number, in two's complement.
    pub(super) fn int(&mut self, field: u32, value: i64) {
        self.uint(field, value.cast_unsigned());
    }

    /// One element of a repeated text, empty ones too.
    pub(super) fn text(&mut self, field: u32, value: &str) {
        self.delimited(field, value.as_bytes());
    }

    /// A message inside this one.
    pub(super) fn message(&mut self, field: u32, value: &Message) {
        self.delimited(field, &value.bytes);
    }

    /// A repeated number, packed.
    pub(super) fn packed(&mut self, field: u32, values: impl Iterator<Item = u64>) {
        let mut packed = Message::default();
        values.for_each(|value| packed.varint(value));
        if !packed.bytes.is_empty() {
            self.delimited(field, &packed.bytes);
        }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn delimited(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the format's own documentation.
    #[test]
    fn the_documented_examples_come_out() {
        let mut number = Message::default();
        number.uint(1, 150);
        assert_eq!(number.bytes, [0x08, 0x96, 0x01]);
        let mut text = Message::default();
        text.text(2, "testing");
        assert_eq!(text.bytes, [0x12, 7, b't', b'e', b's', b't', b'i', b'n', b'g']);
        let mut outer = Message::default();
        outer.message(3, &number);
        assert_eq!(outer.bytes, [0x1a, 3, 0x08, 0x96, 0x01]);
        let mut packed = Message::default();
        packed.packed(6, [3, 270, 86942].into_iter());
        assert_eq!(packed.bytes, [0x32, 6, 3, 0x8e, 2, 0x9e, 0xa7, 5]);
    }

    #[test]
    fn zeros_are_left_out_and_negative_numbers_take_ten_bytes() {
        let mut message = Message::default();
        message.uint(1, 0);
        message.int(2, 0);
        message.packed(3, [].into_iter());
        assert!(message.bytes.is_empty());
        message.int(1, -2);
        let expected = [0x08, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(message.into_bytes(), expected);
    }
}
