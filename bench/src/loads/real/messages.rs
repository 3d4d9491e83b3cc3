//! Async tasks that pass boxed messages: `tokio` with two worker threads. No unsafe here.

use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};

use super::sentence;
use crate::workload::{Outcome, Scale, fold_bytes, measure};

/// A request on its way through the stages.
struct Message {
    id: u64,
    text: String,
    trail: Vec<Box<str>>,
    reply: oneshot::Sender<Box<Reply>>,
}

struct Reply {
    id: u64,
    text: String,
    stages: usize,
}

/// Each client task sends requests through a chain of four stage tasks, which answer each by a
/// one-shot channel; a task is spawned per request to wait for the answer.
pub(crate) fn async_messages(scale: &Scale) -> Outcome {
    const CLIENTS: u64 = 8;
    let requests = scale.of(70_000);
    measure(|| {
        let runtime = Builder::new_multi_thread().worker_threads(2).build();
        let runtime = runtime.expect("the system has threads for two workers");
        let sum = runtime.block_on(async {
            let first = stages(4);
            let clients: Vec<_> = (0..CLIENTS)
                .map(|i| tokio::spawn(client(scale.rng(i), requests, first.clone())))
                .collect();
            drop(first);
            let mut sum = 0u64;
            for client in clients {
                sum = sum.wrapping_add(client.await.expect("no client panics"));
            }
            sum
        });
        (CLIENTS * requests, sum)
    })
}

/// Spawns `count` stages; returns the way into the first.
fn stages(count: usize) -> mpsc::Sender<Box<Message>> {
    let mut next: Option<mpsc::Sender<Box<Message>>> = None;
    for number in (0..count).rev() {
        let (way_in, mut waiting) = mpsc::channel::<Box<Message>>(64);
        let way_out = next.replace(way_in);
        tokio::spawn(async move {
            while let Some(mut message) = waiting.recv().await {
                message.trail.push(format!("stage {number} saw {}", message.id).into());
                match &way_out {
                    Some(way_out) => {
                        way_out
                            .send(message)
                            .await
                            .map_err(drop)
                            .expect("later stages live longer");
                    }
                    None => answer(*message),
                }
            }
        });
    }
    next.expect("there is at least one stage")
}

fn answer(message: Message) {
    let Message { id, text, trail, reply } = message;
    let text = format!("{text}: {}", trail.join(", "));
    let answer = Box::new(Reply { id, text, stages: trail.len() });
    reply.send(answer).map_err(drop).expect("the task of this request waits");
}

async fn client(mut rng: fastrand::Rng, requests: u64, first: mpsc::Sender<Box<Message>>) -> u64 {
    let mut waiting = Vec::new();
    let mut sum = 0u64;
    for id in 0..requests {
        let text = sentence(&mut rng, 3);
        let (reply, answer) = oneshot::channel();
        let message = Box::new(Message { id, text, trail: Vec::new(), reply });
        first.send(message).await.map_err(drop).expect("the first stage lives as long as we do");
        waiting.push(tokio::spawn(async move {
            let reply = answer.await.expect("every request is answered");
            assert_eq!(reply.stages, 4, "no stage was left out");
            fold_bytes(reply.id, reply.text.as_bytes())
        }));
        if waiting.len() == 50 || id + 1 == requests {
            for task in waiting.drain(..) {
                sum = sum.wrapping_add(task.await.expect("no waiting task panics"));
            }
        }
    }
    sum
}
