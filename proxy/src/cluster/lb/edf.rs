//! Weighted round robin: earliest deadline first, and a plain cursor where all weights are equal.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The rotation over one list, by place.
#[derive(Default)]
pub(super) struct Edf {
    ready: bool,
    cursor: u64,
    /// Deadlines, where weights differ. The order number keeps ties in insertion order.
    heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    order: u64,
}

/// Virtual time of a place of weight 1; divided by a place's weight.
const TURN: f64 = (1_u64 << 40) as f64;

impl Edf {
    /// The next place of `len`, which is not 0. `weight` is that of a place; those without weight are passed over where others
    /// have some.
    pub(super) fn next(&mut self, len: usize, weight: impl Fn(usize) -> f64, random: u64) -> usize {
        if !self.ready {
            self.begin(len, &weight, random);
        }
        self.due(&weight).unwrap_or_else(|| {
            let i = self.cursor % len as u64;
            self.cursor = i + 1;
            i as usize
        })
    }

    /// The place whose deadline is first; `None` where all weights are equal.
    fn due(&mut self, weight: impl Fn(usize) -> f64) -> Option<usize> {
        let Reverse((deadline, _, i)) = self.heap.pop()?;
        self.order += 1;
        self.heap.push(Reverse((deadline.saturating_add(turn(weight(i))), self.order, i)));
        Some(i)
    }

    fn begin(&mut self, len: usize, weight: impl Fn(usize) -> f64, random: u64) {
        self.ready = true;
        // Workers start at different places, so that few requests on many workers spread.
        self.cursor = random % len as u64;
        if (1..len).all(|i| weight(i) == weight(0)) {
            return;
        }
        for i in (0..len).filter(|i| weight(*i) > 0.0) {
            self.order += 1;
            self.heap.push(Reverse((turn(weight(i)), self.order, i)));
        }
        // The same for weights: some turns are skipped.
        for _ in 0..random % len as u64 {
            self.due(&weight);
        }
    }
}

fn turn(weight: f64) -> u64 {
    (TURN / weight.max(f64::MIN_POSITIVE)) as u64
}

#[cfg(test)]
mod tests {
    use super::Edf;

    #[test]
    fn turns_are_shared_by_weight() {
        for random in 0..5 {
            let weights = [3.0, 1.0, 0.0, 0.5];
            let mut edf = Edf::default();
            let mut counts = [0_i64; 4];
            for _ in 0..900 {
                counts[edf.next(4, |i| weights[i], random)] += 1;
            }
            for (count, wanted) in counts.iter().zip([600, 200, 0, 100]) {
                assert!((count - wanted).abs() <= 3, "{counts:?}");
            }
        }
    }

    #[test]
    fn equals_take_turns() {
        let mut edf = Edf::default();
        let turns: Vec<usize> = (0..6).map(|_| edf.next(3, |_| 2.0, 4)).collect();
        assert_eq!(turns, [1, 2, 0, 1, 2, 0]);
    }
}
