//! Which authority signs, which roots are trusted, and when that changes: without input or output.
//!
//! A root is replaced in three steps. The new one is added to what proxies trust; when all have it, it begins to sign; when
//! nobody has a good certificate of the old one any more, that is no longer trusted. So at each moment everybody trusts
//! whoever has signed for anybody else.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;

use super::authority::Authority;

/// See the module.
pub(super) struct Rotation {
    pub(super) issuing: Arc<Authority>,
    /// Trusted, and to sign next.
    pub(super) next: Option<Arc<Authority>>,
    pub(super) retiring: Vec<Retiring>,
    /// The newest certificate of each holder.
    ledger: HashMap<Holder, Entry>,
    /// Until when there may be certificates that the ledger does not know: those from before this start.
    unknown_until: SystemTime,
    /// When the last certificate of all ends, at the latest. It is kept over starts, so it is rounded up.
    pub(super) issued_until: SystemTime,
}

/// By how much the end of all certificates is rounded up at most, so that it is not written for each of them.
const ROUNDING: Duration = Duration::from_secs(3600);

/// Roots that no longer sign.
#[derive(Clone, Debug)]
pub(super) struct Retiring {
    /// The authority's name.
    pub(super) name: String,
    pub(super) roots: Vec<CertificateDer<'static>>,
    /// When the last certificate it can have signed ends.
    pub(super) until: SystemTime,
    /// Until when there may be some that the ledger does not know.
    pub(super) unknown_until: SystemTime,
}

/// Who has a certificate: whom it is for, and the process it was made for if that says so (else its serial number).
pub(super) type Holder = (String, String);

struct Entry {
    authority: String,
    not_after: SystemTime,
}

/// How far the replacement of a root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// None is going on.
    Steady,
    /// Proxies are told to trust the new root.
    Distributing,
    /// The new root signs; the old one is still trusted.
    Retiring,
}

impl Phase {
    /// As tables and metrics show it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Distributing => "distributing",
            Self::Retiring => "retiring",
        }
    }
}

impl Rotation {
    /// The state as it was left: all certificates end by `issued_until`.
    pub(super) fn new(
        issuing: Arc<Authority>,
        next: Option<Arc<Authority>>,
        retiring: Vec<Retiring>,
        issued_until: SystemTime,
    ) -> Self {
        Self { issuing, next, retiring, ledger: HashMap::new(), unknown_until: issued_until, issued_until }
    }

    pub(super) fn phase(&self) -> Phase {
        match (&self.next, self.retiring.is_empty()) {
            (Some(_), _) => Phase::Distributing,
            (None, false) => Phase::Retiring,
            (None, true) => Phase::Steady,
        }
    }

    /// Everything that is trusted, the roots of whoever signs first.
    pub(super) fn bundle(&self) -> Vec<CertificateDer<'static>> {
        let mut all: Vec<CertificateDer<'static>> = Vec::new();
        let authorities = [Some(&self.issuing), self.next.as_ref()];
        let of_authorities = authorities.into_iter().flatten().flat_map(|authority| &authority.roots);
        for root in of_authorities.chain(self.retiring.iter().flat_map(|old| &old.roots)) {
            if !all.contains(root) {
                all.push(root.clone());
            }
        }
        all
    }

    /// A certificate was made by whoever signs now. Whether [`Self::issued_until`] has grown.
    pub(super) fn issued(&mut self, holder: Holder, not_after: SystemTime, now: SystemTime) -> bool {
        self.ledger.insert(holder, Entry { authority: self.issuing.name.clone(), not_after });
        if not_after <= self.issued_until {
            return false;
        }
        let life = not_after.duration_since(now).unwrap_or_default();
        self.issued_until = not_after + (life / 4).min(ROUNDING);
        true
    }

    /// Everybody trusts the next authority: it signs from now on. The name of the one before, if there was a next one.
    pub(super) fn advance(&mut self) -> Option<String> {
        let next = self.next.take()?;
        let old = std::mem::replace(&mut self.issuing, next);
        self.retiring.retain(|one| one.name != old.name);
        let name = old.name.clone();
        let (until, unknown_until) = (self.issued_until, self.unknown_until);
        self.retiring.push(Retiring { name: name.clone(), roots: old.roots.clone(), until, unknown_until });
        Some(name)
    }

    /// How many holders' newest certificate is an authority's, as far as is known.
    pub(super) fn outstanding(&self, authority: &str) -> usize {
        self.ledger.values().filter(|entry| entry.authority == authority).count()
    }

    /// Time has passed: forgets what has ended, and the old authorities that nobody has a certificate of. Their names.
    pub(super) fn elapsed(&mut self, now: SystemTime) -> Vec<String> {
        self.ledger.retain(|_, entry| entry.not_after > now);
        let ledger = &self.ledger;
        let is_used = |old: &Retiring| {
            old.until > now && (old.unknown_until > now || ledger.values().any(|entry| entry.authority == old.name))
        };
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.retiring).into_iter().partition(is_used);
        self.retiring = kept;
        gone.into_iter().map(|old| old.name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> Arc<Authority> {
        let (certificate, key) = Authority::self_signed("cluster.local", SystemTime::now()).unwrap();
        Arc::new(Authority::from_pem(&certificate, &key, "", "").unwrap())
    }

    fn holder(name: &str, process: &str) -> Holder {
        (name.to_owned(), process.to_owned())
    }

    #[test]
    fn a_root_goes_when_nobody_has_a_certificate_of_it() {
        let now = SystemTime::now();
        let at = |seconds: u64| now + Duration::from_secs(seconds);
        let (old, new) = (authority(), authority());
        let mut rotation = Rotation::new(old.clone(), None, Vec::new(), now);
        rotation.issued(holder("web", "1"), at(60), now);
        rotation.issued(holder("web", "2"), at(80), now);
        assert_eq!(rotation.phase(), Phase::Steady);
        rotation.next = Some(new.clone());
        assert_eq!((rotation.phase(), rotation.bundle().len()), (Phase::Distributing, 2));
        rotation.issued(holder("api", "3"), at(100), now);
        assert_eq!(rotation.advance(), Some(old.name.clone()));
        assert_eq!((rotation.phase(), rotation.bundle().len()), (Phase::Retiring, 2));
        assert_eq!(rotation.bundle()[0], new.roots[0]);
        // One renews, one renews late, one is gone.
        rotation.issued(holder("web", "1"), at(200), now);
        assert!(rotation.elapsed(at(70)).is_empty());
        rotation.issued(holder("web", "2"), at(200), now);
        assert!(rotation.elapsed(at(90)).is_empty());
        assert_eq!(rotation.outstanding(&old.name), 1);
        assert_eq!(rotation.elapsed(at(101)), [&*old.name], "it need not be waited for the end of all");
        assert_eq!((rotation.phase(), rotation.bundle()), (Phase::Steady, new.roots.clone()));
    }

    #[test]
    fn what_was_issued_before_a_start_is_waited_for() {
        let now = SystemTime::now();
        let (old, new) = (authority(), authority());
        let until = now + Duration::from_secs(60);
        let retiring = Retiring { name: old.name.clone(), roots: old.roots.clone(), until, unknown_until: until };
        let mut rotation = Rotation::new(new, None, vec![retiring], until);
        assert!(rotation.elapsed(now).is_empty());
        assert_eq!(rotation.elapsed(until), [&*old.name]);
    }
}
