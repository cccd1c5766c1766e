package carrier_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"golang.org/x/crypto/ssh"

	"slipway/internal/testenv"
	"slipway/orchestrator"
	"slipway/workers/appliance/apply"
	"slipway/workers/appliance/carrier"
	"slipway/workers/queue/amqp"
)

// says is what an appliance that is not itself any more puts where its answer should be: a text, and then another again and again until so
// many bytes are said, or nobody listens when that is 0.
type says struct {
	text, again string
	most        int
}

func (s says) to(w io.Writer) {
	if _, err := io.WriteString(w, s.text); err != nil || s.again == "" {
		return
	}
	block := []byte(strings.Repeat(s.again, 1+(64<<10)/len(s.again)))
	for n := 0; s.most == 0 || n < s.most; n += len(block) {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

const gigabyte = 1 << 30

var hostileAnswers = map[string]struct {
	says
	look bool // at what is live, to which an answer may be longer
	want string
}{
	"nothing":                   {says: says{}, want: "no answer"},
	"half an answer":            {says: says{text: `{"code":"applied","gener`}, want: "no answer"},
	"garbage":                   {says: says{text: "\x1b]0;owned\a\x00\xff\u202e"}, want: "no answer"},
	"another type":              {says: says{text: `["applied"]`}, want: "no answer"},
	"a list for a word":         {says: says{text: `{"code":["applied"]}`}, want: "no answer"},
	"null":                      {says: says{text: `null`}, want: `code "" is not known`},
	"a code of its own":         {says: says{text: `{"code":"\u001b[2Jdone"}`}, want: `code "[2Jdone" is not known`},
	"a field of its own":        {says: says{text: `{"code":"applied","\u001b[2J":1}`}, want: "unknown field"},
	"a hash that is none":       {says: says{text: `{"code":"applied","sha256":"\u001b[2J"}`}, want: `sha256 "[2J" is none`},
	"numbers below zero":        {says: says{text: `{"code":"applied","generation":-1}`}, want: "negative numbers"},
	"numbers beyond all":        {says: says{text: `{"code":"applied","generation":1e300}`}, want: "no answer"},
	"live files, unasked":       {says: says{text: `{"code":"applied","live":{}}`}, want: "live files: true"},
	"a look without files":      {says: says{text: `{"code":"observed"}`}, look: true, want: "live files: false"},
	"lists within lists":        {says: says{again: "[", most: gigabyte}, want: "no answer"},
	"blanks without end":        {says: says{again: " ", most: gigabyte}, want: "longer than"},
	"a message without end":     {says: says{text: `{"code":"applied","message":"`, again: "x", most: gigabyte}, want: "longer than"},
	"live files without end":    {says: says{text: `{"code":"observed","live":{"files":[{"name":"a","content":"`, again: "x", most: gigabyte}, look: true, want: "longer than"},
	"a hundred thousand files":  {says: says{text: `{"code":"observed","live":{"files":[{}`, again: `,{"name":"a","content":""}`, most: 10 << 20}, look: true, want: "no answer"},
	"a thousand files":          {says: says{text: `{"code":"observed","live":{"files":[{}` + strings.Repeat(",{}", 1000) + `]}}`}, look: true, want: "too many files"},
	"an unknown code, then all": {says: says{text: `{"code":"splendid"}`, again: "more", most: gigabyte}, want: `code "splendid" is not known`},
}

// judgeHostile asks, and judges the end: kind Unknown, for the agent has the request; a reason that names the appliance and can be shown; bounded
// memory and time.
func judgeHostile(t *testing.T, c interface {
	Apply(context.Context, apply.Request) (apply.Answer, error)
}, look bool, want, who string) {
	t.Helper()
	var err error
	began := time.Now()
	grown := testenv.Heap(t, func() {
		_, err = c.Apply(t.Context(), apply.Request{Unit: "dhcp", Generation: 1, ReadOnly: look})
	})
	if orchestrator.KindOf(err) != orchestrator.Unknown || !strings.Contains(fmt.Sprint(err), want) || !strings.Contains(fmt.Sprint(err), who) {
		t.Errorf("kind %q: %v", orchestrator.KindOf(err), err)
	}
	if s := fmt.Sprint(err); len(s) > 3000 || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("%d bytes that a terminal would act on: %.300q", len(s), s)
	}
	most := int64(16)
	if look {
		most = 350 // an honest answer may have 65 MiB
	}
	if grown > most*testenv.Mebibyte {
		t.Errorf("it took %d MiB, more than %d", grown/testenv.Mebibyte, most)
	}
	if took := time.Since(began); took > 60*time.Second {
		t.Errorf("it took %s", took)
	}
	t.Logf("%d MiB", grown/testenv.Mebibyte)
}

// broker brings back what a test says.
type broker []byte

func (b broker) Ask(context.Context, string, amqp.Request) ([]byte, error) { return b, nil }

func TestHostileAnswersOverTheQueue(t *testing.T) {
	file, _ := newKey(t, t.TempDir(), "k")
	over := func(body []byte) *carrier.Queue {
		c, err := carrier.NewQueue(carrier.QueueConfig{Broker: broker(body), Agent: agentName, Key: secret(t, file)})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for name, tt := range hostileAnswers {
		t.Run(name, func(t *testing.T) {
			if most := 4 << 20; tt.most > most && !tt.look {
				tt.most = most // of what it unpacks into, and four times what is taken: to pack more takes long
			} else if tt.look {
				tt.most = min(tt.most, 80<<20)
			}
			var packed bytes.Buffer
			w, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
			if err != nil {
				t.Fatal(err)
			}
			tt.to(w)
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			judgeHostile(t, over(packed.Bytes()), tt.look, tt.want, "agent "+agentName)
		})
	}
	t.Run("not packed", func(t *testing.T) {
		judgeHostile(t, over([]byte(`{"code":"applied"}`)), false, "not packed", "agent "+agentName)
	})
	t.Run("cut off", func(t *testing.T) {
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		_, _ = io.WriteString(w, `{"code":"applied","generation":1}`)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		judgeHostile(t, over(packed.Bytes()[:packed.Len()/2]), false, "no answer", "agent "+agentName)
	})
}

// wrongServer is an SSH server of its own that lets us in and runs nothing: it answers each command with a text.
func wrongServer(t *testing.T, answer func(ssh.Channel)) carrier.SSHConfig {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
	config.AddHostKey(key)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	serve := func(conn net.Conn) {
		defer conn.Close()
		_, channels, requests, err := ssh.NewServerConn(conn, config)
		if err != nil {
			return
		}
		wg.Go(func() { ssh.DiscardRequests(requests) })
		for offer := range channels {
			ch, asked, err := offer.Accept()
			if err != nil {
				return
			}
			for r := range asked {
				_ = r.Reply(r.Type == "exec", nil)
				if r.Type == "exec" {
					wg.Go(func() { ssh.DiscardRequests(asked) })
					answer(ch)
					_ = ch.Close()
					break
				}
			}
		}
	}
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	file, _ := newKey(t, t.TempDir(), "k")
	return carrier.SSHConfig{Address: l.Addr().String(), User: "slipway", Key: secret(t, file), HostKey: string(ssh.MarshalAuthorizedKey(key.PublicKey())), Timeout: 2 * time.Minute, Handshake: time.Minute}
}

func TestHostileAnswersOverSSH(t *testing.T) {
	for name, tt := range hostileAnswers {
		t.Run(name, func(t *testing.T) {
			cfg := wrongServer(t, func(ch ssh.Channel) { tt.to(ch) })
			judgeHostile(t, dial(t, cfg), tt.look, tt.want, cfg.Address)
		})
	}
	t.Run("complaints without end", func(t *testing.T) {
		cfg := wrongServer(t, func(ch ssh.Channel) { says{again: "\x1b[2J", most: 16 << 20}.to(ch.Stderr()) })
		judgeHostile(t, dial(t, cfg), false, "no answer", cfg.Address)
	})
	t.Run("drips", func(t *testing.T) {
		cfg := wrongServer(t, func(ch ssh.Channel) {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for range tick.C {
				if _, err := io.WriteString(ch, " "); err != nil {
					return
				}
			}
		})
		cfg.Timeout = 3 * time.Second // the handshake is in it
		judgeHostile(t, dial(t, cfg), false, "3s", cfg.Address)
	})
}

// What an appliance says of itself in an answer that counts is clean as well.
func TestWordsInAnAnswerAreClean(t *testing.T) {
	text := `{"code":"broken","generation":1,"sha256":"","file":"a\u202eb","message":"` + strings.Repeat(`\u001b[2J\u009b31m\u2066no `, 20_000) + `"}`
	cfg := wrongServer(t, func(ch ssh.Channel) { _, _ = io.WriteString(ch, text) })
	answer, err := dial(t, cfg).Apply(t.Context(), apply.Request{Unit: "dhcp", Generation: 1})
	if err != nil || answer.Code != apply.Broken || answer.File != "ab" || !strings.HasPrefix(answer.Message, "[2J31mno [2J31mno ") || len(answer.Message) > 2010 {
		t.Errorf("%.200v, %v", answer, err)
	}
}
