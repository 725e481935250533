//! Session tickets: a session's state, sealed and given to the client to keep.
//!
//! Keys are either configured, and then shared by every proxy that has them, or made here and replaced as they age. A ticket
//! is bound to the rules its client was let in by: one issued under another validation context does not open. Runs on: workers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use parking_lot::RwLock;
use rustls::server::ProducesTickets;

/// Envoy's format: 16 octets of name, 32 for HMAC, 32 for AES.
const CONFIGURED_KEY_LEN: usize = 80;
const NAME_LEN: usize = 16;
/// BoringSSL's default, and so Envoy's.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(7200);

/// Seals and opens tickets with AES-256-GCM.
pub(super) struct Ticketer {
    keys: RwLock<Keys>,
    /// Made here, and so replaced after a lifetime.
    own: bool,
    lifetime: Duration,
    /// What a ticket is bound to.
    context: [u8; 32],
}

/// The first key seals, all open.
struct Keys {
    list: Vec<Key>,
    since: u64,
}

struct Key {
    name: [u8; NAME_LEN],
    aead: LessSafeKey,
}

impl Ticketer {
    /// With configured keys; none: keys of our own.
    ///
    /// # Errors
    /// A key is not 80 octets long, or there is no randomness.
    pub(super) fn new(
        configured: &[impl AsRef<[u8]>],
        lifetime: Option<Duration>,
        context: [u8; 32],
    ) -> Result<Self, String> {
        let own = configured.is_empty();
        let list = if own {
            vec![Key::random().ok_or("no randomness for a session ticket key")?]
        } else {
            configured.iter().map(|k| Key::configured(k.as_ref())).collect::<Result<_, _>>()?
        };
        let keys = RwLock::new(Keys { list, since: now() });
        Ok(Ticketer { keys, own, lifetime: lifetime.unwrap_or(DEFAULT_LIFETIME), context })
    }

    /// Replaces a key of ours that is old; the one before still opens.
    fn roll(&self, now: u64) {
        if !self.own || now.saturating_sub(self.keys.read().since) < self.lifetime.as_secs().max(1) {
            return;
        }
        let Some(fresh) = Key::random() else { return };
        let mut keys = self.keys.write();
        // Another worker may have been faster.
        if now.saturating_sub(keys.since) >= self.lifetime.as_secs().max(1) {
            keys.list.truncate(1);
            keys.list.insert(0, fresh);
            keys.since = now;
        }
    }

    fn seal(&self, plain: &[u8], now: u64) -> Option<Vec<u8>> {
        self.roll(now);
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let keys = self.keys.read();
        let key = keys.list.first()?;
        let mut body = Vec::with_capacity(8 + plain.len() + AES_256_GCM.tag_len());
        body.extend_from_slice(&now.to_be_bytes());
        body.extend_from_slice(plain);
        key.aead
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(self.context), &mut body)
            .ok()?;
        Some([&key.name[..], &nonce, &body].concat())
    }

    fn open(&self, ticket: &[u8], now: u64) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME_LEN)?;
        let (nonce, body) = rest.split_at_checked(NONCE_LEN)?;
        let keys = self.keys.read();
        let key = keys.list.iter().find(|k| k.name == name)?;
        let mut body = body.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let plain = key.aead.open_in_place(nonce, Aad::from(self.context), &mut body).ok()?;
        let (issued, plain) = plain.split_first_chunk::<8>()?;
        let age = now.saturating_sub(u64::from_be_bytes(*issued));
        (age <= self.lifetime.as_secs()).then(|| plain.to_vec())
    }
}

impl Key {
    fn random() -> Option<Key> {
        let (mut name, mut secret) = ([0; NAME_LEN], [0; 32]);
        rand::fill(&mut name).ok()?;
        rand::fill(&mut secret).ok()?;
        Some(Key { name, aead: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &secret).ok()?) })
    }

    fn configured(octets: &[u8]) -> Result<Key, String> {
        let wrong = || {
            format!(
                "Incorrect TLS session ticket key length. Length {}, expected length {CONFIGURED_KEY_LEN}.",
                octets.len()
            )
        };
        let octets: &[u8; CONFIGURED_KEY_LEN] = octets.try_into().map_err(|_| wrong())?;
        let (name, secrets) = octets.split_first_chunk::<NAME_LEN>().ok_or_else(wrong)?;
        // The middle 32 are for HMAC, which the AEAD makes needless.
        let aead = UnboundKey::new(&AES_256_GCM, &secrets[32..]).map_err(|_| wrong())?;
        Ok(Key { name: *name, aead: LessSafeKey::new(aead) })
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.lifetime.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, now())
    }
}

impl std::fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ticketer({} keys)", self.keys.read().list.len())
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [&[u8]; 0] = [];
    const HOUR: Option<Duration> = Some(Duration::from_secs(3600));

    #[test]
    fn keys_roll_and_tickets_age() {
        let t = Ticketer::new(&NONE, HOUR, [0; 32]).unwrap();
        let start = now();
        let ticket = t.seal(b"state", start).unwrap();
        assert_eq!(t.open(&ticket, start + 3600).unwrap(), b"state");
        assert!(t.open(&ticket, start + 3601).is_none(), "too old");
        let second = t.seal(b"x", start + 3600).unwrap();
        assert_ne!(ticket[..NAME_LEN], second[..NAME_LEN]);
        assert!(t.open(&ticket, start + 3600).is_some(), "the key before still opens");
        t.seal(b"x", start + 7200).unwrap();
        assert_eq!(t.keys.read().list.len(), 2);
    }

    #[test]
    fn configured_keys_are_shared_and_bound_to_the_context() {
        let (old, new) = ([1u8; 80], [2u8; 80]);
        let a = Ticketer::new(&[old], HOUR, [0; 32]).unwrap();
        let b = Ticketer::new(&[new, old], HOUR, [0; 32]).unwrap();
        let other_rules = Ticketer::new(&[old], HOUR, [9; 32]).unwrap();
        let ticket = a.seal(b"state", now()).unwrap();
        assert_eq!(b.open(&ticket, now()).unwrap(), b"state");
        assert!(a.open(&b.seal(b"x", now()).unwrap(), now()).is_none());
        assert!(other_rules.open(&ticket, now()).is_none());
        let mut forged = ticket.clone();
        *forged.last_mut().unwrap() ^= 1;
        assert!(b.open(&forged, now()).is_none());
        assert!(b.open(&ticket[..20], now()).is_none());
        assert!(Ticketer::new(&[[0u8; 48]], HOUR, [0; 32]).unwrap_err().contains("Length 48"));
    }
}
