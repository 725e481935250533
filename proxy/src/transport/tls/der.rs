//! A reader of DER, for the few structures no library hands us whole.
//!
//! Knows tags and lengths and nothing else; never looks past what it was given. Runs on: any thread.

/// `SEQUENCE`.
pub(super) const SEQUENCE: u8 = 0x30;
/// `INTEGER`.
pub(super) const INTEGER: u8 = 0x02;
/// `BIT STRING`.
pub(super) const BIT_STRING: u8 = 0x03;
/// `OCTET STRING`.
pub(super) const OCTET_STRING: u8 = 0x04;
/// `OBJECT IDENTIFIER`.
pub(super) const OID: u8 = 0x06;

/// A cursor over consecutive DER elements.
#[derive(Clone, Copy)]
pub(super) struct Der<'a>(&'a [u8]);

/// One element.
pub(super) struct Element<'a> {
    /// Its tag octet.
    pub(super) tag: u8,
    /// Its contents.
    pub(super) value: &'a [u8],
    /// Tag, length and contents.
    pub(super) raw: &'a [u8],
}

impl<'a> Der<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Der(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next element, whatever it is.
    pub(super) fn any(&mut self) -> Option<Element<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        // Long form: at most four octets of length, beyond any certificate.
        let (len, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (octets.iter().fold(0usize, |n, b| n << 8 | usize::from(*b)), rest)
            }
            _ => return None,
        };
        let (value, after) = rest.split_at_checked(len)?;
        let raw = &self.0[..self.0.len() - after.len()];
        self.0 = after;
        Some(Element { tag, value, raw })
    }

    /// The contents of the next element, which must have this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        let before = *self;
        match self.any() {
            Some(e) if e.tag == tag => Some(e.value),
            _ => {
                *self = before;
                None
            }
        }
    }

    /// Steps into the next element, which must have this tag.
    pub(super) fn enter(&mut self, tag: u8) -> Option<Der<'a>> {
        self.expect(tag).map(Der)
    }

    /// A non-negative integer of at most 32 bits.
    pub(super) fn small_integer(&mut self) -> Option<u32> {
        let bytes = self.expect(INTEGER)?;
        if bytes.len() > 5 || bytes.first()? & 0x80 != 0 {
            return None;
        }
        u32::try_from(bytes.iter().fold(0u64, |n, b| n << 8 | u64::from(*b))).ok()
    }

    /// A bit string of whole octets.
    pub(super) fn octet_bits(&mut self) -> Option<&'a [u8]> {
        match self.expect(BIT_STRING)?.split_first()? {
            (0, bits) => Some(bits),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nested_and_long_forms() {
        let mut long = vec![OCTET_STRING, 0x81, 0x80];
        long.extend([7; 0x80]);
        let mut seq = vec![SEQUENCE, 0x81, (long.len() + 3) as u8, INTEGER, 1, 5];
        seq.extend(&long);
        let mut top = Der::new(&seq);
        let mut inner = top.enter(SEQUENCE).unwrap();
        assert!(inner.expect(OID).is_none(), "a mismatch consumes nothing");
        assert_eq!(inner.small_integer(), Some(5));
        assert_eq!(inner.expect(OCTET_STRING).unwrap().len(), 0x80);
        assert!(inner.is_empty() && top.is_empty());
    }

    proptest! {
        #[test]
        fn never_panics_and_never_reads_past(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut d = Der::new(&bytes);
            let mut total = 0;
            while let Some(e) = d.any() {
                total += e.raw.len();
                let _ = Der::new(e.value).small_integer();
                let _ = Der::new(e.raw).octet_bits();
            }
            prop_assert!(total <= bytes.len());
        }
    }
}
