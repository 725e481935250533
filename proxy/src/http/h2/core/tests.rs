//! The state machine against itself and against rules.
