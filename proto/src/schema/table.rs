//! Reading `schema.bin` in place.
//!
//! Owns the layout of its records, with `build/writer.rs`. Must not know: what a record is for.

static TABLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/schema.bin"));

/// A section of the table: where it is and how large a record of it is, as `build/writer.rs` lays it out.
#[derive(Clone, Copy)]
pub(super) struct Section {
    header: usize,
    words: usize,
}

pub(super) const MESSAGES: Section = Section { header: 0, words: 7 };
pub(super) const FIELDS: Section = Section { header: 2, words: 11 };
pub(super) const ONEOFS: Section = Section { header: 4, words: 3 };
pub(super) const ENUMS: Section = Section { header: 6, words: 4 };
pub(super) const VALUES: Section = Section { header: 8, words: 4 };
pub(super) const OTHERS: Section = Section { header: 10, words: 2 };
/// The header word that says where the strings start.
const STRINGS: usize = 12;

/// A word by its place in words from the start. Past the end, which the writer rules out, words are 0.
fn word(index: usize) -> u32 {
    let at = index * 4;
    let bytes = TABLE.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u32::from_le_bytes)
}

pub(super) fn bytes(offset: u32, length: u32) -> &'static [u8] {
    let start = word(STRINGS) as usize + offset as usize;
    TABLE.get(start..start + length as usize).unwrap_or_default()
}

fn text(offset: u32, length: u32) -> &'static str {
    std::str::from_utf8(bytes(offset, length)).unwrap_or_default()
}

impl Section {
    pub(super) fn count(self) -> u32 {
        word(self.header + 1)
    }

    pub(super) fn get(self, record: u32, at: usize) -> u32 {
        word(word(self.header) as usize / 4 + record as usize * self.words + at)
    }

    /// The string whose offset and length are at `at` of a record.
    pub(super) fn text(self, record: u32, at: usize) -> &'static str {
        text(self.get(record, at), self.get(record, at + 1))
    }

    /// The record with this name, in a section sorted by name with the name first.
    pub(super) fn find(self, name: &str) -> Option<u32> {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.text(middle, 0).cmp(name) {
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }
}
