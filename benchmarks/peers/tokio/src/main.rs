//! Many producers, one receiver, as it is usually shown with tokio: a `UnixListener`, a task per
//! connection, and a bounded channel behind them, with `LengthDelimitedCodec` for the messages.
//!
//! `receive PATH PRODUCERS SHARE SIZE INTERFACE RATE` counts, checks and times what comes;
//! `produce PATH INDEX SHARE SIZE INTERFACE RATE` sends one message, waits for the end of its
//! standard input, and sends the rest. INTERFACE is `message` (each goes through the channel by
//! itself) or `batch` (what was ready together goes through the channel together). RATE is
//! messages a second of each producer, 0 for as many as will go.

mod process;

use std::io::{Read, Write};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::codec::{Encoder, FramedRead, LengthDelimitedCodec};

const CHANNEL: usize = 1024; // messages, or batches
const READY: usize = 1000; // messages that may go through the channel together
const WRITE_SIZE: usize = 131_072; // bytes gathered for one write
const READ_SIZE: usize = 262_144; // bytes offered to one read
const POOL_MESSAGES: u64 = 1024; // distinct messages, sent round and round
const POOL_BYTES: u64 = 8_000_000;
const STAMP: usize = 8; // producer, zero, sequence number; or a clock

struct Run {
    path: String,
    number: usize, // of producers; or this producer's index
    share: u64,
    size: usize,
    batches: bool,
    rate: f64,
}

impl Run {
    fn pool(&self) -> u64 {
        (POOL_BYTES / self.size as u64)
            .max(2)
            .min(POOL_MESSAGES)
            .min(self.share)
    }

    fn codec(&self) -> LengthDelimitedCodec {
        let longest = self.size.max(STAMP);
        LengthDelimitedCodec::builder()
            .max_frame_length(longest)
            .new_codec()
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |i: usize| arguments[i].parse::<f64>().expect("a number");
    let run = Run {
        path: arguments[2].clone(),
        number: number(3) as usize,
        share: number(4) as u64,
        size: number(5) as usize,
        batches: arguments[6] == "batch",
        rate: number(7),
    };
    match arguments[1].as_str() {
        "receive" => receive(run),
        "produce" => produce(run),
        other => panic!("receive or produce, not {other}"),
    }
}

/// Receive everything, on as many threads as there are cores.
#[tokio::main]
async fn receive(run: Run) {
    let listener = UnixListener::bind(&run.path).expect("bind");
    say("listening");
    let mut tally = Tally::new(&run);
    if run.batches {
        let (sender, receiver) = mpsc::channel(CHANNEL);
        tokio::spawn(accept_batches(listener, sender, run.codec()));
        tally.take_batches(receiver).await;
    } else {
        let (sender, receiver) = mpsc::channel(CHANNEL);
        tokio::spawn(accept(listener, sender, run.codec()));
        tally.take(receiver).await;
    }
    tally.report();
}

async fn accept(listener: UnixListener, to: mpsc::Sender<BytesMut>, codec: LengthDelimitedCodec) {
    while let Ok((stream, _)) = listener.accept().await {
        let (to, codec) = (to.clone(), codec.clone());
        tokio::spawn(async move {
            let mut messages = FramedRead::with_capacity(stream, codec, READ_SIZE);
            while let Some(Ok(message)) = messages.next().await {
                if to.send(message).await.is_err() {
                    break;
                }
            }
        });
    }
}

async fn accept_batches(
    listener: UnixListener,
    to: mpsc::Sender<Vec<BytesMut>>,
    codec: LengthDelimitedCodec,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (to, codec) = (to.clone(), codec.clone());
        tokio::spawn(async move {
            let messages = FramedRead::with_capacity(stream, codec, READ_SIZE);
            let mut batches = messages.ready_chunks(READY);
            while let Some(batch) = batches.next().await {
                let batch = batch.into_iter().map_while(Result::ok).collect();
                if to.send(batch).await.is_err() {
                    break;
                }
            }
        });
    }
}

/// What has come: every message's length, producer and sequence number are checked.
struct Tally {
    producers: u64,
    left: u64,
    running: bool,
    size: usize,
    pool: u64,
    share: u64,
    timed: bool,
    next: Vec<u64>,
    latencies: Vec<i64>,
    cpu: f64,
}

impl Tally {
    fn new(run: &Run) -> Tally {
        Tally {
            producers: run.number as u64,
            left: run.number as u64,
            running: false,
            size: run.size,
            pool: run.pool(),
            share: run.share,
            timed: run.rate > 0.0,
            next: vec![0; run.number],
            latencies: Vec::new(),
            cpu: 0.0,
        }
    }

    async fn take(&mut self, mut from: mpsc::Receiver<BytesMut>) {
        while let Some(message) = from.recv().await {
            if self.add(&message) {
                return;
            }
        }
    }

    async fn take_batches(&mut self, mut from: mpsc::Receiver<Vec<BytesMut>>) {
        while let Some(batch) = from.recv().await {
            for message in &batch {
                if self.add(message) {
                    return;
                }
            }
        }
    }

    /// Count a message; true for the last.
    fn add(&mut self, message: &[u8]) -> bool {
        assert_eq!(message.len(), self.size, "the length of a message");
        if self.running {
            self.check(message);
        }
        self.left -= 1;
        if self.left > 0 {
            return false;
        }
        if !self.running {
            self.running = true;
            self.left = self.producers * self.share;
            self.cpu = process::cpu_seconds();
            say("ready");
            return false;
        }
        true
    }

    fn check(&mut self, message: &[u8]) {
        if self.timed {
            let sent = i64::from_le_bytes(message[..STAMP].try_into().unwrap());
            self.latencies.push(process::monotonic_ns() - sent);
            return;
        }
        let producer = u16::from_le_bytes(message[..2].try_into().unwrap()) as usize;
        let sequence = u32::from_le_bytes(message[4..STAMP].try_into().unwrap()) as u64;
        assert_eq!(
            sequence,
            self.next[producer] % self.pool,
            "a sequence number"
        );
        self.next[producer] += 1;
    }

    fn report(&self) {
        let ended = process::monotonic_ns();
        let cpu = process::cpu_seconds() - self.cpu;
        assert!(self.timed || self.next.iter().all(|&next| next == self.share));
        say(&format!(
            "{{\"ended\": {ended}, \"cpu\": {cpu}, \"latencies\": {:?}}}",
            self.latencies
        ));
    }
}

/// Send everything, on one thread.
#[tokio::main(flavor = "current_thread")]
async fn produce(run: Run) {
    let stream = UnixStream::connect(&run.path).await.expect("connect");
    let mut out = Out {
        stream,
        codec: run.codec(),
        buffer: BytesMut::new(),
    };
    let pool: Vec<Bytes> = (0..run.pool()).map(|i| stamped(&run, i)).collect();
    out.add(pool[0].clone());
    out.flush().await;

    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .expect("the end of standard input");
    let cpu = process::cpu_seconds();
    let began = process::monotonic_ns();
    if run.rate > 0.0 {
        send_paced(&run, &mut out).await;
    } else {
        for message in pool.iter().cycle().take(run.share as usize) {
            out.add(message.clone());
            if out.buffer.len() >= WRITE_SIZE {
                out.flush().await;
            }
        }
        out.flush().await;
    }
    let cpu = process::cpu_seconds() - cpu;
    say(&format!("{{\"began\": {began}, \"cpu\": {cpu}}}"));
}

/// Encoded messages on their way out.
struct Out {
    stream: UnixStream,
    codec: LengthDelimitedCodec,
    buffer: BytesMut,
}

impl Out {
    fn add(&mut self, message: Bytes) {
        self.codec
            .encode(message, &mut self.buffer)
            .expect("encode");
    }

    async fn flush(&mut self) {
        self.stream.write_all(&self.buffer).await.expect("write");
        self.buffer.clear();
    }
}

async fn send_paced(run: &Run, out: &mut Out) {
    let interval = (1e9 / run.rate) as i64;
    let mut due = process::monotonic_ns();
    for _ in 0..run.share {
        due += interval;
        let wait = due - process::monotonic_ns();
        if wait > 0 {
            std::thread::sleep(Duration::from_nanos(wait as u64)); // tokio's timers count in ms
        }
        let mut message = vec![b'x'; run.size];
        message[..STAMP].copy_from_slice(&process::monotonic_ns().to_le_bytes());
        out.add(message.into());
        out.flush().await;
    }
}

fn stamped(run: &Run, sequence: u64) -> Bytes {
    let mut message = vec![b'x'; run.size];
    message[..2].copy_from_slice(&(run.number as u16).to_le_bytes());
    message[2..4].fill(0);
    message[4..STAMP].copy_from_slice(&(sequence as u32).to_le_bytes());
    message.into()
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("standard output");
}
