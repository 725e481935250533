//! Weighted round robin: earliest deadline first, and a plain cursor where all weights are equal.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::super::Host;

/// The rotation over one list of hosts.
#[derive(Default)]
pub(super) struct Edf {
    ready: bool,
    cursor: u64,
    /// Deadlines of hosts, where weights differ. The order number keeps ties in insertion order.
    heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    order: u64,
}

/// Virtual time of a host of weight 1; divided by a host's weight.
const TURN: u64 = 1 << 32;

impl Edf {
    /// The index of the next host.
    pub(super) fn next(&mut self, hosts: &[Arc<Host>], random: u64) -> usize {
        if !self.ready {
            self.begin(hosts, random);
        }
        let Some(Reverse((deadline, _, i))) = self.heap.pop() else {
            let i = self.cursor % hosts.len() as u64;
            self.cursor = i + 1;
            return i as usize;
        };
        self.order += 1;
        self.heap.push(Reverse((deadline + TURN / u64::from(hosts[i].weight), self.order, i)));
        i
    }

    fn begin(&mut self, hosts: &[Arc<Host>], random: u64) {
        self.ready = true;
        // Workers start at different hosts, so that few requests on many workers spread.
        self.cursor = random % hosts.len() as u64;
        if super::weights_differ(hosts) {
            for (i, h) in hosts.iter().enumerate() {
                self.order += 1;
                self.heap.push(Reverse((TURN / u64::from(h.weight), self.order, i)));
            }
        }
    }
}
