//! Worker threads: each runs its own single-threaded runtime with its own sockets, pools and random numbers.

use std::cell::{Cell, RefCell};
use std::time::SystemTime;

use http::HeaderValue;

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
    static RANDOM: Cell<u64> = Cell::new(rand::random());
    static DATE: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
}

/// Makes the calling thread worker `index` (0 is the first).
pub fn enter(index: usize) {
    INDEX.set(index);
    crate::stats::set_slot(index + 1);
    crate::clock::enable();
}

/// The calling thread's worker.
pub fn index() -> usize {
    INDEX.get()
}

/// A uniformly random number, not for secrets.
pub fn random() -> u64 {
    RANDOM.with(|r| {
        let next = crate::cluster::lb::mix(r.get());
        // A counter in front of the mixer: every value occurs once per period.
        r.set(r.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        next
    })
}

/// The `date` header of this second.
pub fn date() -> HeaderValue {
    let now = crate::clock::wall().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    DATE.with_borrow_mut(|(second, value)| {
        if *second != now {
            *second = now;
            *value = http_date(now);
        }
        value.clone()
    })
}

fn http_date(secs: u64) -> HeaderValue {
    const FORMAT: &[time::format_description::BorrowedFormatItem<'_>] = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let at = time::OffsetDateTime::from_unix_timestamp(secs.try_into().unwrap_or(0))
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let text = at.format(FORMAT).unwrap_or_default();
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// A runtime for one thread.
///
/// # Errors
/// The operating system refused its resources.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(31)
        .on_thread_unpark(crate::clock::woken)
        .build()
}
