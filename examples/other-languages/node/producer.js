// Send each line of standard input as a message: node producer.js ADDRESS
'use strict'
const crypto = require('crypto'), net = require('net'), readline = require('readline')

const PREFACE = Buffer.from('\x89MPSR\r\n\x01', 'latin1')
const HELLO = 1, WELCOME = 2, BATCH = 3, ACK = 5, REJECT = 6, BYE = 7
const WORTH_A_RETRY = [7, 8] // codes of REJECT: BUSY and DEADLINE
const BATCH_BYTES = 256 * 1024, FIRST_DELAY = 10 // milliseconds

function frame (type, size, seq) { // with a payload of so many bytes, which begins with a number
  const bytes = Buffer.alloc(8 + size)
  bytes.writeUInt32LE(size, 0)
  bytes[4] = type
  if (seq !== undefined) bytes.writeBigUInt64LE(BigInt(seq), 8)
  return bytes
}

class Producer {
  queue = [] // what is not accepted yet
  lowest = 0 // sequence number of the first in the queue
  bytes = 0; sent = 0 // of the queue; so many of it are on their way
  largest = 0 // bytes of a BATCH payload; 0 until a receiver has said WELCOME
  welcome = false // on this connection
  delay = FIRST_DELAY
  error = null; waiting = [] // why the producer gave up; who waits for room, or for acceptance

  constructor (path, buffer = 4 * 1024 * 1024) {
    Object.assign(this, { path, buffer, id: crypto.randomBytes(16) })
    this.connect()
  }

  // Waits for a receiver, and for room. Fails where the message is too large for the receiver, and
  // once the producer has given up. The message is kept, and not to be changed.
  async send (message) {
    while ((this.largest === 0 || this.bytes >= this.buffer) && !this.error) await this.change()
    if (this.error) throw this.error
    const most = this.largest - 24
    if (message.length > most) throw new Error(`a message of ${message.length} bytes: the receiver takes ${most}`)
    this.queue.push(message)
    this.bytes += message.length
    if (this.queue.length === this.sent + 1) setImmediate(() => this.write()) // gathers more
  }

  // Waits until the receiver has accepted all, and ends in order.
  async close () {
    while (this.queue.length > 0 && !this.error) await this.change()
    if (this.error) throw this.error
    this.closed = true
    if (this.welcome) this.socket.end(frame(BYE, 0))
    else this.socket.destroy()
  }

  change () { return new Promise(resolve => this.waiting.push(resolve)) }
  wake () { for (const resolve of this.waiting.splice(0)) resolve() }

  giveUp (why) {
    this.error = new Error(why)
    this.socket.destroy()
    this.wake()
  }

  connect () {
    const socket = this.socket = net.connect(this.path)
    let input = Buffer.alloc(0)
    const hello = frame(HELLO, 24)
    this.id.copy(hello, 8)
    hello.writeBigUInt64LE(BigInt(this.lowest), 24)
    // Not at once: a refusal that is there already is read before a write can fail.
    socket.on('connect', () => setImmediate(() => socket.write(Buffer.concat([PREFACE, hello]))))
    socket.on('drain', () => this.write())
    socket.on('data', data => {
      input = Buffer.concat([input, data])
      while (input.length >= 8 && !this.error) {
        const end = 8 + input.readUInt32LE(0)
        if (end > 8 + 4096) return this.giveUp('whoever is there is no receiver')
        if (input.length < end) break
        this.take(input[4], input.subarray(8, end))
        input = input.subarray(end)
      }
    })
    socket.on('error', () => {}) // "close" follows
    socket.on('close', () => {
      this.welcome = false
      if (this.error || this.closed) return
      setTimeout(() => this.connect(), this.delay * (0.5 + Math.random() / 2))
      this.delay = Math.min(2 * this.delay, 1000)
    })
  }

  take (type, payload) {
    const number = type === WELCOME ? 4 : 0
    const count = payload.length >= number + 8 ? Number(payload.readBigUInt64LE(number)) - this.lowest : 0
    if (type === WELCOME && !this.welcome && count >= 0 && count <= this.queue.length) {
      this.sent = count
      this.largest = payload.readUInt32LE(12)
      this.welcome = true
      this.delay = FIRST_DELAY
      this.wake()
      this.write()
    } else if (type === ACK && this.welcome && count <= this.sent) {
      for (const message of this.queue.splice(0, Math.max(0, count))) {
        this.bytes -= message.length
        this.lowest++
        this.sent--
      }
      this.wake()
    } else if (type === REJECT && WORTH_A_RETRY.includes(payload[0])) {
      this.socket.destroy()
    } else if (type === REJECT) this.giveUp(`the receiver refuses: ${payload.subarray(4)}`)
    else this.giveUp('whoever is there is no receiver, or counts differently')
  }

  write () { // as much as the socket takes
    while (this.welcome && this.sent < this.queue.length && !this.socket.writableNeedDrain) {
      const first = this.sent
      let size = 20 // a BATCH has 20 bytes, and 4 more for each message
      for (; this.sent < this.queue.length; this.sent++) {
        const more = 4 + this.queue[this.sent].length
        if (this.sent > first && size + more > Math.min(this.largest, BATCH_BYTES)) break
        size += more
      }
      this.socket.write(this.batch(first, this.sent, size))
    }
  }

  batch (first, end, size) {
    const bytes = frame(BATCH, size, this.lowest + first)
    const bodies = 28 + 4 * (end - first)
    bytes.writeUInt32LE(end - first, 16)
    for (let index = first, at = bodies; index < end; index++) {
      at += this.queue[index].copy(bytes, at)
      bytes.writeUInt32LE(at - bodies, 28 + 4 * (index - first))
    }
    return bytes
  }
}

async function main (path) {
  const producer = new Producer(path)
  const lines = readline.createInterface({ input: process.stdin })
  try {
    for await (const line of lines) await producer.send(Buffer.from(line))
  } finally {
    await producer.close()
  }
}

main(process.argv[2]).catch(error => { console.error(error.message); process.exit(1) })
