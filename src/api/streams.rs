//! Where the requests of one HTTP/2 connection run.
//!
//! hyper would give each request a task of its own. Most reads are answered without waiting, and for them that costs
//! more than the answer: a task, perhaps a thread woken for it, a write to the socket each. Here one task polls all
//! requests that came in together, so that their answers leave together, and only what then has to wait gets its own.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
};

use hyper::rt::Executor;

/// The most requests that one task begins. What came in with them is left to whichever thread is free.
const TOGETHER_MAX: usize = 64;

type Request = Pin<Box<dyn Future<Output = ()> + Send>>;
type Queue = Mutex<Vec<Request>>;

/// The requests of a connection that were not begun yet: at most as many as it may have streams.
#[derive(Default)]
pub(super) struct Streams(Arc<Queue>);

/// What hyper hands the requests to. Each of them holds a clone, so that none may keep the queue alive.
#[derive(Clone)]
pub(super) struct Begin(Weak<Queue>);

impl Streams {
    pub(super) fn executor(&self) -> Begin {
        Begin(Arc::downgrade(&self.0))
    }
}

impl<F> Executor<F> for Begin
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, request: F) {
        let Some(queue) = self.0.upgrade() else {
            tokio::spawn(request);
            return;
        };
        let mut waiting = lock(&queue);
        waiting.push(Box::pin(request));
        if waiting.len() == 1 {
            drop(waiting);
            // It runs when the connection has taken in all that has arrived.
            tokio::spawn(poll_fn(move |cx| {
                begin(&queue, cx);
                Poll::Ready(())
            }));
        }
    }
}

/// Polls each request once. What is not done then goes on in a task of its own.
fn begin(queue: &Queue, cx: &mut Context<'_>) {
    let waiting = std::mem::take(&mut *lock(queue));
    for (place, mut request) in waiting.into_iter().enumerate() {
        // A panic ends its own request, as it would end a task.
        let mut poll = || request.as_mut().poll(cx).is_ready();
        let is_done =
            place < TOGETHER_MAX && catch_unwind(AssertUnwindSafe(&mut poll)).unwrap_or(true);
        if !is_done {
            tokio::spawn(request);
        }
    }
}

fn lock(queue: &Queue) -> MutexGuard<'_, Vec<Request>> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::sync::{mpsc, oneshot};

    use super::*;

    #[tokio::test]
    async fn one_task_begins_what_came_together_but_not_more_than_it_may() {
        let streams = Streams::default();
        let (say, mut said) = mpsc::channel(TOGETHER_MAX + 2);
        for place in 0..TOGETHER_MAX + 2 {
            let say = say.clone();
            streams.executor().execute(async move {
                say.try_send((place, tokio::task::id())).unwrap();
            });
        }
        drop(say);
        let mut tasks = Vec::new();
        while let Some(task) = said.recv().await {
            tasks.push(task);
        }
        let together = tasks.get(..TOGETHER_MAX).unwrap();
        assert!(together.iter().map(|(place, _)| *place).eq(0..TOGETHER_MAX), "in their order");
        assert_eq!(together.iter().map(|(_, task)| task).collect::<BTreeSet<_>>().len(), 1);
        assert_eq!(tasks.iter().map(|(_, task)| task).collect::<BTreeSet<_>>().len(), 3);
    }

    #[tokio::test]
    async fn a_request_ends_whatever_becomes_of_the_others_and_of_the_connection() {
        let streams = Streams::default();
        let begin = streams.executor();
        let (say, mut said) = mpsc::channel(8);
        let (go, wait) = oneshot::channel();
        begin.execute(async { panic!("a defect in a handler") });
        let late = say.clone();
        begin.execute(async move {
            wait.await.unwrap();
            late.try_send("late").unwrap();
        });
        let at_once = say.clone();
        begin.execute(async move { at_once.try_send("at once").unwrap() });
        assert_eq!(said.recv().await, Some("at once"));
        drop(streams);
        begin.execute(async move { say.try_send("after the end").unwrap() });
        assert_eq!(said.recv().await, Some("after the end"));
        go.send(()).unwrap();
        assert_eq!(said.recv().await, Some("late"));
    }
}
