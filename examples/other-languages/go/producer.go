// Send each line of standard input as a message: go run producer.go ADDRESS
package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

const hello, welcome, batch, ack, reject, bye = 1, 2, 3, 5, 6, 7
const buffer, batchBytes = 4 << 20, 256 << 10 // bytes that wait for acceptance; bytes of a BATCH

var le = binary.LittleEndian

// Refused says why a producer gives up: the same would happen again.
type Refused struct{ error }

// Producer keeps each message until it is accepted. It is for one goroutine at a time.
type Producer struct {
	path          string
	id            [16]byte
	conn          net.Conn // nil where there is none
	queue         [][]byte // what is not accepted yet
	lowest        uint64   // sequence number of the first in the queue
	sent, largest int      // so many of it are on their way; bytes of a BATCH payload, or 0
	bytes, unsent int      // of the queue; of what came since the last write
}

func NewProducer(path string) *Producer {
	p := &Producer{path: path}
	rand.Read(p.id[:])
	return p
}

// Send keeps a message, and writes when there are enough, else at the next Flush. It waits for a
// receiver, and for room.
func (p *Producer) Send(message []byte) error {
	if p.largest == 0 || p.unsent >= batchBytes {
		if err := p.Flush(buffer); err != nil {
			return err
		}
	}
	if most := p.largest - 24; len(message) > most {
		return fmt.Errorf("a message of %d bytes: the receiver takes %d", len(message), most)
	}
	cost := len(message) + 4
	p.queue, p.bytes, p.unsent = append(p.queue, message), p.bytes+cost, p.unsent+cost
	return nil
}

// Close waits until the receiver has accepted all, and ends in order.
func (p *Producer) Close() error {
	err := p.Flush(0)
	if err == nil {
		p.conn.Write(frame(bye))
		p.conn.Close()
	}
	return err
}

// Flush writes all, and waits until at most so many bytes are not accepted.
func (p *Producer) Flush(most int) error {
	for delay := 10 * time.Millisecond; ; delay *= 2 {
		err := p.connect()
		for err == nil && p.sent < len(p.queue) {
			err = p.write(p.batch())
		}
		for err == nil && p.bytes > most {
			err = p.answer()
		}
		if _, refused := err.(Refused); refused || err == nil {
			return err
		}
		if p.conn != nil {
			p.conn.Close()
			p.conn = nil
		}
		if delay > time.Second {
			delay = time.Second
		}
		time.Sleep(delay/2 + time.Duration(time.Now().UnixNano())%(delay/2)) // not all at once
	}
}

func (p *Producer) connect() (err error) {
	if p.conn != nil {
		return nil
	}
	if p.conn, err = net.Dial("unix", p.path); err == nil {
		p.largest = 0
		err = p.write(append([]byte("\x89MPSR\r\n\x01"), frame(hello, p.id, p.lowest)...))
	}
	for err == nil && p.largest == 0 {
		err = p.answer()
	}
	return err
}

// write reads on where it fails: there may be a REJECT.
func (p *Producer) write(data []byte) (err error) {
	_, failed := p.conn.Write(data)
	for failed != nil && err == nil {
		err = p.answer()
	}
	return err
}

func frame(kind uint64, fields ...any) []byte {
	var payload bytes.Buffer
	for _, field := range fields {
		binary.Write(&payload, le, field)
	}
	return append(le.AppendUint64(nil, uint64(payload.Len())|kind<<32), payload.Bytes()...)
}

// batch returns the next messages of the queue, one at least, as a frame.
func (p *Producer) batch() []byte {
	first, size, offsets, bodies := p.sent, 20, []uint32{0}, []byte{}
	for ; p.sent < len(p.queue); p.sent++ {
		size += 4 + len(p.queue[p.sent])
		if p.sent > first && (size > batchBytes || size > p.largest) {
			break
		}
		bodies = append(bodies, p.queue[p.sent]...)
		offsets = append(offsets, uint32(len(bodies)))
	}
	p.unsent = 0
	return frame(batch, p.lowest+uint64(first), uint64(p.sent-first), offsets, bodies)
}

// answer waits for a frame of the receiver, and does what it says.
func (p *Producer) answer() error {
	head := make([]byte, 8)
	_, err := io.ReadFull(p.conn, head)
	payload := make([]byte, le.Uint32(head)%8192) // a receiver's has 4,096 at most
	if _, end := io.ReadFull(p.conn, payload); err != nil || end != nil {
		return io.EOF
	}
	switch kind, size := head[4], len(payload); {
	case kind == welcome && size == 16 && le.Uint64(payload[4:])-p.lowest <= uint64(len(p.queue)):
		p.sent, p.largest = int(le.Uint64(payload[4:])-p.lowest), int(le.Uint32(payload[12:]))
	case kind == ack && size == 8 && int64(le.Uint64(payload)-p.lowest) <= int64(p.sent):
		for ; p.lowest < le.Uint64(payload); p.lowest++ {
			p.bytes -= len(p.queue[0]) + 4
			p.queue, p.sent = p.queue[1:], p.sent-1
		}
	case kind == reject && size >= 4 && (payload[0] == 7 || payload[0] == 8): // BUSY, DEADLINE
		return io.EOF
	case kind == reject && size >= 4:
		return Refused{fmt.Errorf("the receiver refuses: %s", payload[4:])}
	default:
		return Refused{fmt.Errorf("whoever is there is no receiver, or counts differently")}
	}
	return nil
}

func main() {
	producer, lines, err := NewProducer(os.Args[1]), bufio.NewReader(os.Stdin), error(nil)
	for line, end := lines.ReadBytes('\n'); end == nil && err == nil; line, end = lines.ReadBytes('\n') {
		err = producer.Send(line[:len(line)-1])
	}
	for _, err := range []error{err, producer.Close()} {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
