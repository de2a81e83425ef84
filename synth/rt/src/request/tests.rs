use std::{
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use super::*;
use crate::metrics::CacheShape;

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new("m", 100, CacheShape { block_size: 16, n_blocks: 1 }))
}

fn bounded(n_requests: usize, n_prompt_tokens: usize) -> (Outbox, Inbox, Arc<Metrics>) {
    let metrics = metrics();
    let (outbox, inbox) = queue(QueueBound { n_requests, n_prompt_tokens }, metrics.clone());
    (outbox, inbox, metrics)
}

/// Submits a call of `n` choices of a prompt of `n_prompt` tokens.
fn submit(outbox: &Outbox, n: usize, n_prompt: usize) -> Result<Events, Refused> {
    let prompt: Arc<[u32]> = vec![1; n_prompt].into();
    outbox.submit(vec![(prompt, Sampling::greedy(4)); n], 0)
}

#[test]
fn first_come_first_served_and_ids_are_unique() {
    let (outbox, inbox, metrics) = bounded(10, 100);
    let calls: Vec<Events> = (0..5).map(|_| submit(&outbox, 1, 3).expect("room")).collect();
    assert_eq!(metrics.requests_waiting.load(Ordering::Relaxed), 5);
    let ids: Vec<u64> = std::iter::from_fn(|| inbox.try_recv()).map(|request| request.id).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5]);
    drop(calls);
}

#[test]
fn a_full_queue_refuses_whole_calls_and_says_when_to_retry() {
    let (outbox, inbox, metrics) = bounded(3, 10);
    let _first = submit(&outbox, 1, 4).expect("room");
    for (n, n_prompt) in [(3, 1), (1, 7)] {
        let refused = submit(&outbox, n, n_prompt).err();
        assert!(
            matches!(refused, Some(Refused::Overloaded { retry_after }) if retry_after >= Duration::from_secs(1))
        );
    }
    assert_eq!((metrics.admission_rejections.get(), metrics.aborted.get()), (2, 0));
    assert_eq!(metrics.requests_waiting.load(Ordering::Relaxed), 1);
    assert!(outbox.never_fits(4, 4) && outbox.never_fits(1, 11) && !outbox.never_fits(3, 10));
    assert!(inbox.try_recv().is_some());
    submit(&outbox, 1, 10).expect("room again");
}

#[test]
fn an_idle_time_behind_a_client_that_left_is_not_the_pace() {
    let (outbox, inbox, _metrics) = bounded(2, 10);
    let served = submit(&outbox, 1, 1).expect("room");
    let left = submit(&outbox, 1, 1).expect("room");
    assert!(inbox.try_recv().is_some());
    drop(left);
    assert!(inbox.try_recv().is_none());
    // Long enough to show in a mean that was a second before.
    thread::sleep(Duration::from_secs(2));
    let _taken = submit(&outbox, 1, 1).expect("room");
    assert!(inbox.try_recv().is_some());
    let _waits = [1, 1].map(|n_prompt| submit(&outbox, 1, n_prompt).expect("room"));
    let refused = submit(&outbox, 1, 1).err();
    assert_eq!(refused, Some(Refused::Overloaded { retry_after: Duration::from_secs(2) }));
    drop(served);
}

#[test]
fn a_request_waits_until_the_engine_admits_it() {
    let (outbox, inbox, metrics) = bounded(2, 10);
    let _call = submit(&outbox, 1, 4).expect("room");
    assert!(inbox.try_recv_if(|request| request.prompt.len() < 4).is_none());
    assert_eq!(metrics.requests_waiting.load(Ordering::Relaxed), 1);
    assert!(inbox.try_recv_if(|request| request.prompt.len() == 4).is_some());
}

#[test]
fn cancelled_requests_leave_the_queue() {
    let (outbox, inbox, metrics) = bounded(2, 10);
    let first = submit(&outbox, 1, 1).expect("room");
    let second = submit(&outbox, 1, 1).expect("room");
    drop(second);
    let _third = submit(&outbox, 1, 1).expect("the cancelled one makes room");
    drop(first);
    assert_eq!(inbox.try_recv().expect("the third").id, 3);
    assert!(inbox.try_recv().is_none());
    assert_eq!(metrics.aborted.get(), 3, "two cancelled, one dropped by its taker");
}

#[test]
fn one_choice_of_a_call_can_end_early() {
    let (outbox, inbox, metrics) = bounded(2, 10);
    let call = submit(&outbox, 2, 1).expect("room");
    call.satisfied(1);
    let first = inbox.try_recv().expect("queued");
    assert!(!first.cancelled.is_set() && inbox.try_recv().is_none());
    drop(call);
    assert!(first.cancelled.is_set());
    drop(first);
    assert_eq!((metrics.finished_stop.get(), metrics.aborted.get()), (1, 1), "satisfied, abandoned");
}

#[test]
fn an_idle_engine_sleeps_until_work_comes_and_ends_with_the_last_outbox() {
    let (outbox, inbox, _metrics) = bounded(2, 10);
    let engine = thread::spawn(move || {
        let mut n_served = 0;
        while let Some(mut request) = inbox.recv() {
            request.events.send(Event::Done(Finish::Stop));
            n_served += 1;
        }
        n_served
    });
    let second = outbox.clone();
    for outbox in [&outbox, &second] {
        thread::sleep(Duration::from_millis(5));
        let mut call = submit(outbox, 1, 1).expect("room");
        assert_eq!(call.blocking_recv(), Some((0, Event::Done(Finish::Stop))));
        assert_eq!(call.blocking_recv(), None);
    }
    drop(outbox);
    drop(second);
    assert_eq!(engine.join().expect("no panic"), 2);
}

#[test]
fn a_stopped_engine_is_seen_by_waiting_and_new_requests() {
    let (outbox, inbox, metrics) = bounded(2, 10);
    let mut first = submit(&outbox, 1, 1).expect("room");
    drop(inbox);
    assert_eq!(first.blocking_recv(), Some((0, Event::Done(Finish::Aborted))));
    assert_eq!(submit(&outbox, 1, 1).err(), Some(Refused::Stopped));
    assert_eq!(metrics.requests_waiting.load(Ordering::Relaxed), 0);
}

#[test]
fn events_keep_the_metrics() {
    let (outbox, inbox, metrics) = bounded(2, 10);
    let mut call = submit(&outbox, 1, 7).expect("room");
    let mut taken = inbox.try_recv().expect("queued");
    assert_eq!(metrics.requests_running.load(Ordering::Relaxed), 1);
    taken.events.send(Event::Prompt { cached_tokens: 0, logprobs: Vec::new() });
    for id in 0..3 {
        taken.events.send(Event::Token { id, logprobs: None });
    }
    taken.events.send(Event::Done(Finish::Length));
    drop(taken);
    assert_eq!(metrics.requests_running.load(Ordering::Relaxed), 0);
    assert_eq!((metrics.prompt_tokens.get(), metrics.generation_tokens.get()), (7, 3));
    assert_eq!((metrics.finished_length.get(), metrics.aborted.get()), (1, 0));
    let page = metrics.render();
    for (name, count) in [
        ("time_to_first_token_seconds", 1),
        ("inter_token_latency_seconds", 2),
        ("e2e_request_latency_seconds", 1),
    ] {
        assert!(page.contains(&format!("vllm:{name}_count{{model_name=\"m\"}} {count}\n")), "{page}");
    }
    let n_events = std::iter::from_fn(|| call.blocking_recv()).count();
    assert_eq!(n_events, 5);
}
