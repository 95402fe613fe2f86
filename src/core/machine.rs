//! What every state machine here looks like to the one driver that makes an actor of it.

use crate::model::time::{MonotonicUs, UnixMs};

/// A state machine. It learns of the world by events alone, and says by effects what is to be done.
pub trait Core {
    /// What happens.
    type Event;
    /// What is to be done, in order.
    type Effect;
    /// What a step reads of the world beside its event: what is kept, say, or who can be reached.
    type Shelf<'a>: ?Sized;

    /// Advances by one event. What depends on time is done by the first event at or after [`next_due`](Self::next_due).
    fn step(&mut self, now: Now, event: Self::Event, shelf: &Self::Shelf<'_>) -> Vec<Self::Effect>;

    /// Returns when the next step is wanted at the latest, if nothing happens before; `None` = never.
    fn next_due(&self) -> Option<MonotonicUs>;
}

/// A core that may not be there, as without a group: then nothing happens.
impl<C: Core> Core for Option<C> {
    type Event = C::Event;
    type Effect = C::Effect;
    type Shelf<'a> = C::Shelf<'a>;

    fn step(&mut self, now: Now, event: Self::Event, shelf: &Self::Shelf<'_>) -> Vec<Self::Effect> {
        self.as_mut().map(|core| core.step(now, event, shelf)).unwrap_or_default()
    }

    fn next_due(&self) -> Option<MonotonicUs> {
        self.as_ref().and_then(C::next_due)
    }
}

/// The clocks at the moment of an event, and a random number for what has to be spread.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// The monotonic clock.
    pub monotonic: MonotonicUs,
    /// The wall clock.
    pub wall: UnixMs,
    /// Fresh with each event.
    pub entropy: u64,
}

#[cfg(test)]
impl Now {
    /// A moment for a test of what reads no wall clock and wants no random number.
    pub(crate) fn at(monotonic: MonotonicUs) -> Self {
        Self { monotonic, wall: UnixMs(0), entropy: 0 }
    }
}

/// Names an effect that is answered by an event. Grows; each is used once in the life of its state machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ticket(pub u64);

impl Ticket {
    /// Returns the next one, which is the last one from now on.
    pub fn draw(&mut self) -> Self {
        self.0 += 1;
        *self
    }
}

/// Says that what was asked for did not come. Why, is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoAnswer;
