//! Makes an actor of a core: the life that makes late answers stale, the one timer, the watches, and what is owed to it.
//!
//! An actor's own file is left with its translation of messages into events, and with carrying effects out.

use std::{fmt, time::Duration};

use futures::FutureExt as _;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{
    group_view::GroupView,
    recorder::Outcome,
    shell::{ActorMessage, Address, Context, Described, Handling},
};
use nomad_core::{
    machine::{Core, NoAnswer, Now},
    model::{object::ObjectId, time::MonotonicUs},
};

/// What an actor with a driver learns in its mailbox from its own work.
#[derive(Debug)]
pub enum Told<N> {
    /// What became of an effect. Later lives leave it unread.
    Happened {
        /// The life of the actor that it is owed to.
        life: u64,
        /// What.
        news: N,
    },
    /// The node's view of its group has changed.
    ViewChanged,
    /// The time that the core wanted to be woken at has come.
    Tick,
}

impl<N: Described> Described for Told<N> {
    fn kind(&self) -> &'static str {
        match self {
            Self::Happened { news, .. } => news.kind(),
            Self::ViewChanged => "ViewChanged",
            Self::Tick => "Tick",
        }
    }

    fn object(&self) -> Option<&ObjectId> {
        match self {
            Self::Happened { news, .. } => news.object(),
            Self::ViewChanged | Self::Tick => None,
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Happened { news, .. } => news.detail(),
            Self::ViewChanged | Self::Tick => self.kind().to_owned(),
        }
    }
}

/// A message of an actor that has a driver.
pub trait DrivenMessage: ActorMessage {
    /// What its effects bring.
    type News: Described + fmt::Debug + Send + 'static;

    /// Makes the message of what the driver tells.
    fn told(told: Told<Self::News>) -> Self;
}

/// What belongs to this life and is to be looked at now.
#[derive(Debug)]
pub(super) enum News<N> {
    /// What became of an effect.
    Happened(N),
    /// The view has changed.
    ViewChanged,
    /// A time has come that was waited for.
    Due,
}

/// A core in its actor. It ends with it.
pub(super) struct Driver<C: Core> {
    core: C,
    life: u64,
    /// When the actor itself wants to be woken, beside its core.
    pause: Option<MonotonicUs>,
    alarm: Option<(MonotonicUs, AbortOnDropHandle<()>)>,
    watches: Vec<AbortOnDropHandle<()>>,
}

impl<C: Core> Driver<C> {
    /// Begins a life.
    pub fn new<M: DrivenMessage>(cx: &Handling<'_, M>, core: C) -> Self {
        let life = cx.kit.entropy.next_u64();
        Self { core, life, pause: None, alarm: None, watches: Vec::new() }
    }

    /// Begins another life with another core: nothing reaches it any more of what is under way.
    pub fn start_over<M: DrivenMessage>(&mut self, cx: &Handling<'_, M>, core: C) {
        self.core = core;
        self.life = cx.kit.entropy.next_u64();
        self.pause = None;
        self.alarm = None;
    }

    /// Tells the actor of each new view.
    pub fn watch_view<M: DrivenMessage>(&mut self, cx: &Handling<'_, M>, view: &GroupView) {
        self.watch(cx, view.watch(), |()| M::told(Told::ViewChanged));
    }

    /// Tells the actor of each change of something.
    pub fn watch<M: DrivenMessage, T: Clone + Send + Sync + 'static>(
        &mut self,
        cx: &Handling<'_, M>,
        mut changes: watch::Receiver<T>,
        message: fn(T) -> M,
    ) {
        let me = cx.me.clone();
        let watch = async move {
            while changes.changed().await.is_ok() {
                let now = changes.borrow_and_update().clone();
                me.tell(me.name(), Context::default(), message(now));
            }
        };
        self.watches.push(AbortOnDropHandle::new(tokio::spawn(watch)));
    }

    /// Returns the core, to look at.
    pub fn core(&self) -> &C {
        &self.core
    }

    /// Takes in what was told, or says why there is nothing to be done about it.
    pub fn take<M: DrivenMessage>(
        &mut self,
        cx: &Handling<'_, M>,
        told: Told<M::News>,
    ) -> Result<News<M::News>, Outcome> {
        match told {
            Told::Happened { life, .. } if life != self.life => {
                Err(Outcome::Dropped("it was owed to an earlier life"))
            }
            Told::Happened { news, .. } => Ok(News::Happened(news)),
            Told::ViewChanged => Ok(News::ViewChanged),
            Told::Tick => {
                self.alarm = None;
                let now = cx.kit.clock.monotonic();
                if self.next_due().is_none_or(|due| now < due) {
                    self.set_alarm(cx);
                    return Err(Outcome::Done("nothing is due"));
                }
                self.pause = self.pause.filter(|until| now < *until);
                Ok(News::Due)
            }
        }
    }

    /// Advances the core by an event. The effects are to be carried out in order.
    pub fn step<M: DrivenMessage>(
        &mut self,
        cx: &Handling<'_, M>,
        event: C::Event,
        shelf: &C::Shelf<'_>,
    ) -> Vec<C::Effect> {
        self.with(cx, |core, now| core.step(now, event, shelf))
    }

    /// Lets the core do something that is no event.
    pub fn with<M: DrivenMessage, T>(
        &mut self,
        cx: &Handling<'_, M>,
        change: impl FnOnce(&mut C, Now) -> T,
    ) -> T {
        let now = Now {
            monotonic: cx.kit.clock.monotonic(),
            wall: cx.kit.clock.wall(),
            entropy: cx.kit.entropy.next_u64(),
        };
        let changed = change(&mut self.core, now);
        self.set_alarm(cx);
        changed
    }

    /// Has the actor woken after a pause, whatever its core says.
    pub fn pause_for<M: DrivenMessage>(&mut self, cx: &Handling<'_, M>, pause_us: u64) {
        let until = cx.kit.clock.monotonic().plus_us(pause_us);
        self.pause = Some(self.pause.map_or(until, |set| set.min(until)));
        self.set_alarm(cx);
    }

    // ---- what is owed ----

    /// Owes this life news: they come once, as `failure` if nobody pays.
    pub fn owed<M: DrivenMessage>(&self, cx: &Handling<'_, M>, failure: M::News) -> Owed<M> {
        let mut owed = self.optional(cx);
        owed.news = Some(failure);
        owed
    }

    /// The same for news that need not come.
    pub fn optional<M: DrivenMessage>(&self, cx: &Handling<'_, M>) -> Owed<M> {
        // Whoever caused the step may have gone by the time it is paid; the step itself still wants the answer.
        let context = Context { deadline: None, ..cx.cx };
        Owed { to: cx.me.clone(), cx: context, life: self.life, news: None }
    }

    /// Tells this life something at once, as a message: its core is in the middle of a step.
    pub fn tell<M: DrivenMessage>(&self, cx: &Handling<'_, M>, news: M::News) {
        self.optional(cx).pay(news);
    }

    /// Waits for an answer on a task of its own; `news` says what it means.
    pub fn wait_for<M: DrivenMessage, T>(
        &self,
        cx: &Handling<'_, M>,
        answer: impl Future<Output = Result<T, NoAnswer>> + Send + 'static,
        news: impl Fn(Result<T, NoAnswer>) -> M::News + Send + 'static,
    ) {
        let owed = self.owed(cx, news(Err(NoAnswer)));
        tokio::spawn(answer.map(move |answer| owed.pay(news(answer))));
    }

    /// Reads something on a thread that may wait; `news` says what it means.
    pub fn read<M: DrivenMessage, T>(
        &self,
        cx: &Handling<'_, M>,
        read: impl FnOnce() -> Result<T, NoAnswer> + Send + 'static,
        news: impl Fn(Result<T, NoAnswer>) -> M::News + Send + 'static,
    ) {
        let owed = self.owed(cx, news(Err(NoAnswer)));
        tokio::task::spawn_blocking(move || owed.pay(news(read())));
    }

    // ---- the timer ----

    fn next_due(&self) -> Option<MonotonicUs> {
        self.core.next_due().into_iter().chain(self.pause).min()
    }

    /// Has the timer ring when something is due, or before: then it is set again. It would cost more to set it at each step.
    fn set_alarm<M: DrivenMessage>(&mut self, cx: &Handling<'_, M>) {
        let Some(due) = self.next_due() else { return };
        if self.alarm.as_ref().is_some_and(|(at, _)| *at <= due) {
            return;
        }
        let pause = Duration::from_micros(due.since(cx.kit.clock.monotonic()));
        let ring = cx.tick_after(pause, M::told(Told::Tick));
        self.alarm = Some((due, AbortOnDropHandle::new(ring)));
    }
}

/// News that are owed to one life of an actor. Dropped unpaid, also by an actor that is killed, they tell of a failure.
pub struct Owed<M: DrivenMessage> {
    to: Address<M>,
    cx: Context,
    life: u64,
    news: Option<M::News>,
}

impl<M: DrivenMessage> fmt::Debug for Owed<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Owed({:?})", self.news)
    }
}

impl<M: DrivenMessage> Owed<M> {
    /// Pays.
    pub fn pay(mut self, news: M::News) {
        self.news = Some(news);
    }
}

impl<M: DrivenMessage> Drop for Owed<M> {
    fn drop(&mut self) {
        // An actor that is down starts a new life, which is owed nothing.
        if let Some(news) = self.news.take() {
            let message = M::told(Told::Happened { life: self.life, news });
            self.to.tell(self.to.name(), self.cx, message);
        }
    }
}

// ---- tests ----

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        Kit, Reply, Worker,
        recorder::Filter,
        shell::{Handled, worker},
        supervisor::{Root, nested},
        test_kit::kit,
    };

    const SECOND: Duration = Duration::from_secs(1);

    /// Wants to be woken at one time, and counts its steps.
    #[derive(Default)]
    struct Bell {
        due: Option<MonotonicUs>,
        steps: u32,
    }

    impl Core for Bell {
        type Event = Option<MonotonicUs>;
        type Effect = ();
        type Shelf<'a> = ();

        fn step(&mut self, _: Now, due: Self::Event, (): &()) -> Vec<()> {
            self.due = due;
            self.steps += 1;
            Vec::new()
        }

        fn next_due(&self) -> Option<MonotonicUs> {
            self.due
        }
    }

    #[derive(Debug, Clone, PartialEq)]
    struct Word(&'static str);

    impl Described for Word {
        fn kind(&self) -> &'static str {
            self.0
        }
    }

    #[derive(Debug)]
    enum RingerMsg {
        /// Wakes it after so many microseconds.
        Set(u64),
        /// Pays after a second, or panics then.
        Work(&'static str),
        /// Owes something, and forgets it.
        Forget,
        StartOver,
        Look(Reply<(Vec<Word>, u32)>),
        Told(Told<Word>),
    }

    impl Described for RingerMsg {
        fn kind(&self) -> &'static str {
            match self {
                Self::Told(told) => told.kind(),
                _ => "Other",
            }
        }
    }

    impl ActorMessage for RingerMsg {}

    impl DrivenMessage for RingerMsg {
        type News = Word;

        fn told(told: Told<Word>) -> Self {
            Self::Told(told)
        }
    }

    struct Ringer {
        driver: Driver<Bell>,
        heard: Vec<Word>,
    }

    impl Worker for Ringer {
        type Msg = RingerMsg;
        type Args = ();

        fn start((): &(), cx: &Handling<'_, RingerMsg>) -> Result<Self, String> {
            Ok(Self { driver: Driver::new(cx, Bell::default()), heard: Vec::new() })
        }

        fn handle(&mut self, cx: &Handling<'_, RingerMsg>, message: RingerMsg) -> Handled {
            match message {
                RingerMsg::Set(us) => {
                    let due = cx.kit.clock.monotonic().plus_us(us);
                    self.driver.step(cx, Some(due), &());
                }
                RingerMsg::Work(word) => {
                    let work = async move {
                        tokio::time::sleep(SECOND).await;
                        assert_ne!(word, "panic");
                        Ok(word)
                    };
                    let news = |word: Result<_, NoAnswer>| Word(word.unwrap_or("failure"));
                    self.driver.wait_for(cx, work, news);
                }
                RingerMsg::Forget => drop(self.driver.owed(cx, Word("forgotten"))),
                RingerMsg::StartOver => self.driver.start_over(cx, Bell::default()),
                RingerMsg::Look(reply) => {
                    reply.send((self.heard.clone(), self.driver.core().steps))
                }
                RingerMsg::Told(told) => match self.driver.take(cx, told) {
                    Err(outcome) => return Ok(outcome),
                    Ok(News::Happened(word)) => self.heard.push(word),
                    Ok(News::Due | News::ViewChanged) => {
                        self.driver.step(cx, None, &());
                    }
                },
            }
            Ok(Outcome::Done("handled"))
        }
    }

    struct Bench {
        kit: Kit,
        ringer: Address<RingerMsg>,
        root: Root,
        from: Arc<str>,
    }

    impl Bench {
        async fn start() -> Self {
            let kit = kit();
            let (ringer, spec) = worker::<Ringer>(&kit, "ringer", "storage", ());
            let storage = nested(&kit, "storage", "node", vec![spec]);
            let root = Root::start(&kit, "node", vec![storage]).await.unwrap();
            Self { kit, ringer, root, from: "test".into() }
        }

        fn tell(&self, message: RingerMsg) {
            assert!(self.ringer.tell(&self.from, Context::default(), message));
        }

        async fn look(&self) -> (Vec<Word>, u32) {
            self.ringer.ask(&self.from, Context::default(), RingerMsg::Look).await.unwrap()
        }

        fn outcomes(&self, kind: &str) -> Vec<Outcome> {
            let all = self.kit.recorder.find(&Filter::default(), 100);
            let of_kind = all.into_iter().filter(|record| record.kind == kind);
            of_kind.map(|record| record.outcome).collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_owed_comes_once_also_from_a_task_that_panics() {
        let bench = Bench::start().await;
        for message in [RingerMsg::Work("done"), RingerMsg::Work("panic"), RingerMsg::Forget] {
            bench.tell(message);
        }
        tokio::time::sleep(2 * SECOND).await;
        let (mut heard, _) = bench.look().await;
        heard.sort_by_key(|word| word.0);
        assert_eq!(heard, [Word("done"), Word("failure"), Word("forgotten")]);
        bench.root.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_owed_to_an_earlier_life_is_left_unread() {
        let bench = Bench::start().await;
        bench.tell(RingerMsg::Work("late"));
        bench.tell(RingerMsg::StartOver);
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(bench.look().await.0, []);
        assert_eq!(bench.outcomes("late"), [Outcome::Dropped("it was owed to an earlier life")]);
        bench.root.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_core_is_woken_when_something_is_due_and_not_before() {
        let bench = Bench::start().await;
        bench.tell(RingerMsg::Set(1_000_000));
        // The timer stays where it is set, and is set again when it has rung.
        bench.tell(RingerMsg::Set(3_000_000));
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(bench.look().await.1, 2);
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(bench.look().await.1, 3);
        assert_eq!(bench.outcomes("Tick").len(), 2);
        // One that is wanted sooner than the timer rings sets it at once.
        bench.tell(RingerMsg::Set(9_000_000));
        bench.tell(RingerMsg::Set(1_000_000));
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(bench.look().await.1, 6);
        bench.root.stop().await;
    }
}
