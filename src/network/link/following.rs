//! A link from its place in the table to its end: reads what comes, and closes the link when it is not needed any more.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;

use super::{
    LinksInner,
    connection::LinkConnection,
    greet::FrameStream,
    link::{CLOSED, Link, LinkState},
};
use nomad_proto::link::Frames;

/// How often a link that was replaced is looked at, until nothing is under way on it.
const LINGER_TICK: Duration = Duration::from_millis(100);

/// How long the other side of a link that this one ends has to end it too.
const FAREWELL_LIMIT: Duration = Duration::from_millis(250);

impl LinksInner {
    /// Follows a link to its end.
    pub(super) async fn follow(
        &self,
        link: Arc<Link>,
        mut messages: FrameStream,
        connection: Option<LinkConnection>,
    ) {
        let ending = Ending { inner: self, link: &link };
        let reason = self.take_messages(&link, &mut messages).await;
        self.table.remove(&link, &reason);
        link.end(&reason);
        drop(ending);
        // The other side ends its half when it has seen the end of this one; then nothing of ours is cut off.
        let rest = async { while let Some(Ok(_)) = messages.next().await {} };
        let _ = tokio::time::timeout(FAREWELL_LIMIT, rest).await;
        drop(connection);
    }

    /// Takes what comes until the link is to end, and says why.
    async fn take_messages(&self, link: &Arc<Link>, messages: &mut FrameStream) -> String {
        let mut fate = link.watch();
        // It may have been replaced before it is followed.
        fate.mark_changed();
        let mut pulse = Pulse::new(self.options.idle_limit / 2);
        let stopped = self.stop.cancelled();
        tokio::pin!(stopped);
        loop {
            let message = tokio::select! {
                biased;
                () = &mut stopped => return "this node is stopping".to_owned(),
                _ = fate.changed() => {
                    let now = fate.borrow_and_update().clone();
                    match now {
                        LinkState::Stands => {}
                        LinkState::Replaced => pulse = Pulse::new(LINGER_TICK),
                        LinkState::Ended(reason) if &*reason == CLOSED => return why_closed(messages).await,
                        LinkState::Ended(reason) => return reason.to_string(),
                    }
                    continue;
                }
                _ = pulse.ticks.tick() => match self.look_at(link, &mut pulse) {
                    Some(reason) => return reason.to_owned(),
                    None => continue,
                },
                message = messages.next() => message,
            };
            let taken = match message {
                None => return "the other node closed it".to_owned(),
                Some(Err(reason)) => return reason,
                Some(Ok(Frames {
                    frames,
                    hello: None,
                    proof: None,
                    welcome: None,
                    refusal: None,
                })) => self.answers.take(link, frames),
                Some(Ok(_)) => Err("it sent a part of a handshake".to_owned()),
            };
            if let Err(wrong) = taken {
                return wrong;
            }
            tokio::task::consume_budget().await;
        }
    }

    /// Says why a link is to end that is of no more use.
    fn look_at(&self, link: &Arc<Link>, pulse: &mut Pulse) -> Option<&'static str> {
        pulse.count += 1;
        let activity = link.activity();
        let is_quiet = pulse.activity.replace(activity) == Some(activity);
        let is_idle = is_quiet && link.is_idle();
        if link.fate() == LinkState::Replaced {
            let is_late = LINGER_TICK * pulse.count > self.options.linger_limit;
            return (is_idle || is_late).then_some("another link has taken its place");
        }
        let is_guest = self.table.address(link.node).is_none();
        (is_guest && is_idle && pulse.count > 2).then_some("it was idle, and not to be kept")
    }
}

/// What the other half of the stream says of a closed connection, which it does at once.
async fn why_closed(messages: &mut FrameStream) -> String {
    let error = async {
        loop {
            match messages.next().await {
                Some(Ok(_)) => {}
                Some(Err(reason)) => return reason,
                None => return CLOSED.to_owned(),
            }
        }
    };
    tokio::time::timeout(FAREWELL_LIMIT, error).await.unwrap_or_else(|_| CLOSED.to_owned())
}

/// When a link is looked at, and what was seen.
struct Pulse {
    ticks: tokio::time::Interval,
    count: u32,
    activity: Option<u64>,
}

impl Pulse {
    fn new(period: Duration) -> Self {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self { ticks, count: 0, activity: None }
    }
}

/// Removes a link from the table when its task ends, in whatever way.
struct Ending<'a> {
    inner: &'a LinksInner,
    link: &'a Arc<Link>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let reason = "its task has ended";
        self.inner.table.remove(self.link, reason);
        self.link.end(reason);
    }
}
