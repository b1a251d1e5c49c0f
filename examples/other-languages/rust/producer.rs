//! Send each line of standard input as a message: rustc -O producer.rs && ./producer ADDRESS
use std::collections::VecDeque;
use std::io::{self, BufRead, Error, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime};

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const BATCH: u8 = 3;
const ACK: u8 = 5;
const REJECT: u8 = 6;
const BYE: u8 = 7;
const RETRIED: [u8; 2] = [7, 8]; // codes of REJECT: BUSY and DEADLINE, worth a retry
const BUFFER: usize = 4 << 20; // bytes that wait for acceptance
const BATCH_BYTES: usize = 256 << 10;

/// Keeps each message until it is accepted.
pub struct Producer {
    path: String,
    id: [u8; 16],
    stream: Option<UnixStream>,
    queue: VecDeque<Vec<u8>>, // what is not accepted yet
    lowest: u64,              // sequence number of the first in the queue
    sent: usize,              // so many of the queue are on their way
    bytes: usize,             // of the queue
    unsent: usize,            // bytes of what came since the last write
    largest: usize,           // bytes of a BATCH payload; 0 before WELCOME
}

impl Producer {
    pub fn new(path: &str) -> io::Result<Producer> {
        let mut id = [0; 16];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut id)?;
        let (path, queue) = (path.to_string(), VecDeque::new());
        Ok(Producer { path, id, stream: None, queue, lowest: 0, sent: 0, bytes: 0, unsent: 0, largest: 0 })
    }

    /// Take a message, and write when there are enough, else at the next flush. Waits for a
    /// receiver, and for room.
    pub fn send(&mut self, message: Vec<u8>) -> io::Result<()> {
        if self.largest == 0 || self.unsent >= BATCH_BYTES {
            self.flush(BUFFER)?;
        }
        let most = self.largest.saturating_sub(24);
        if message.len() > most {
            return Err(refused(format!("a message of {} bytes: the receiver takes {most}", message.len())));
        }
        self.bytes += message.len() + 4;
        self.unsent += message.len() + 4;
        self.queue.push_back(message);
        Ok(())
    }

    /// Wait until the receiver has accepted all, and end in order.
    pub fn close(mut self) -> io::Result<()> {
        self.flush(0)?;
        self.write(&frame(BYE, &[]))
    }

    /// Write all, and wait until at most so many bytes are not accepted.
    pub fn flush(&mut self, most: usize) -> io::Result<()> {
        let mut delay = Duration::from_millis(10);
        loop {
            match self.advance(most) {
                Err(error) if error.kind() != ErrorKind::InvalidData => self.stream = None,
                done => return done,
            }
            let chance = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.subsec_nanos());
            std::thread::sleep(delay / 2 + delay / 2 * (chance % 1000) / 1000); // not all at once
            delay = (delay * 2).min(Duration::from_secs(1));
        }
    }

    fn advance(&mut self, most: usize) -> io::Result<()> {
        if self.stream.is_none() {
            self.stream = Some(UnixStream::connect(&self.path)?);
            self.largest = 0;
            let hello = frame(HELLO, &[&self.id, &self.lowest.to_le_bytes()]);
            self.write(&[b"\x89MPSR\r\n\x01", &hello[..]].concat())?;
        }
        while self.largest == 0 || self.sent < self.queue.len() || self.bytes > most {
            if self.largest > 0 && self.sent < self.queue.len() {
                let batch = self.batch();
                self.write(&batch)?;
            } else {
                self.answer()?;
            }
        }
        Ok(())
    }

    fn stream(&mut self) -> io::Result<&mut UnixStream> {
        self.stream.as_mut().ok_or(ErrorKind::NotConnected.into())
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        let failed = self.stream()?.write_all(data).is_err();
        while failed {
            self.answer()?; // there may be a REJECT
        }
        Ok(())
    }

    /// Return the next messages of the queue, one at least, as a frame.
    fn batch(&mut self) -> Vec<u8> {
        let (first, mut size, mut offsets, mut bodies) = (self.sent, 20, vec![0; 4], Vec::new());
        for message in self.queue.iter().skip(first) {
            size += 4 + message.len();
            if self.sent > first && size > BATCH_BYTES.min(self.largest) {
                break;
            }
            bodies.extend_from_slice(message);
            offsets.extend_from_slice(&(bodies.len() as u32).to_le_bytes());
            self.sent += 1;
        }
        self.unsent = 0;
        let (seq, count) = (self.lowest + first as u64, (self.sent - first) as u64);
        frame(BATCH, &[&seq.to_le_bytes(), &count.to_le_bytes(), &offsets, &bodies])
    }

    /// Wait for a frame of the receiver, and do what it says.
    fn answer(&mut self) -> io::Result<()> {
        let mut head = [0; 8];
        self.stream()?.read_exact(&mut head)?;
        let mut payload = vec![0; u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize % 8192];
        self.stream()?.read_exact(&mut payload)?;
        let number = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().unwrap());
        let (sent, end) = (self.lowest + self.sent as u64, self.lowest + self.queue.len() as u64);
        match (head[4], payload.len()) {
            (WELCOME, 16) if (self.lowest..=end).contains(&number(4)) => {
                self.sent = (number(4) - self.lowest) as usize;
                self.largest = (number(8) >> 32) as usize;
            }
            (ACK, 8) if number(0) <= sent => {
                while self.lowest < number(0) {
                    self.bytes -= self.queue.pop_front().map_or(0, |message| message.len() + 4);
                    self.lowest += 1;
                    self.sent -= 1;
                }
            }
            (REJECT, 4..) if RETRIED.contains(&payload[0]) => return Err(ErrorKind::ConnectionReset.into()),
            (REJECT, 4..) => {
                let why = String::from_utf8_lossy(&payload[4..]);
                return Err(refused(format!("the receiver refuses: {why}")));
            }
            _ => return Err(refused("whoever is there is no receiver, or counts differently".to_string())),
        }
        Ok(())
    }
}

fn refused(why: String) -> Error {
    Error::new(ErrorKind::InvalidData, why)
}

fn frame(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let payload = parts.concat();
    [&(payload.len() as u32).to_le_bytes()[..], &[kind, 0, 0, 0], &payload].concat()
}

fn run(path: &str) -> io::Result<()> {
    let mut producer = Producer::new(path)?;
    let sent = io::stdin().lock().split(b'\n').try_for_each(|line| producer.send(line?));
    producer.close().and(sent)
}

fn main() {
    if let Err(error) = run(&std::env::args().nth(1).unwrap_or_default()) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
