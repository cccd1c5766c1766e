package service

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	cryptossh "golang.org/x/crypto/ssh"

	"slipway/internal/config"
	"slipway/orchestrator"
	simxapi "slipway/sim/xapi"
	"slipway/store"
	"slipway/workers/appliance/apply"
	"slipway/workers/appliance/carrier"
	"slipway/workers/hypervisor/xapi"
	"slipway/workers/ipam"
	"slipway/workers/monitoring/rest"
	"slipway/workers/postinstall"
	"slipway/workers/queue"
	"slipway/workers/queue/amqp"
)

// stranger is a server with a certificate and an SSH host key that nobody vouches for, and counts what it is told after its handshake.
type stranger struct {
	address string
	told    atomic.Int64
}

// newStranger speaks TLS, after what comes first in a PostgreSQL connection when postgres, or SSH.
func newStranger(t *testing.T, protocol string) *stranger {
	t.Helper()
	cert, _, err := simxapi.SelfSigned("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := postinstall.NewHostKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := cryptossh.ParsePrivateKey([]byte(key.Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &stranger{address: listener.Addr().String()}
	serve := func(conn net.Conn) {
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		switch protocol {
		case "ssh":
			c := &cryptossh.ServerConfig{PublicKeyCallback: func(cryptossh.ConnMetadata, cryptossh.PublicKey) (*cryptossh.Permissions, error) {
				s.told.Add(1)
				return nil, nil
			}}
			c.AddHostKey(signer)
			if far, _, _, err := cryptossh.NewServerConn(conn, c); err == nil {
				s.told.Add(1)
				_ = far.Close()
			}
			return
		case "postgres":
			if _, err := io.ReadFull(conn, make([]byte, 8)); err != nil { // SSLRequest
				return
			}
			if _, err := conn.Write([]byte("S")); err != nil {
				return
			}
		}
		n, _ := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{cert}}).Read(make([]byte, 1))
		s.told.Add(int64(n))
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
	})
	return s
}

// TestStrangersAreTurnedAway lets every client that goes out from a worker meet a server that nobody vouches for, configured as plainly as
// it can be: it gives up before it has said anything. Guests over SSH and WinRM, name servers and agents over the broker prove themselves
// otherwise; docs/security.md names their tests.
func TestStrangersAreTurnedAway(t *testing.T) {
	secret := orchestrator.NewSecret("Correct-Horse-7")
	quiet := slog.New(slog.DiscardHandler)
	_, pinned, err := postinstall.NewHostKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := postinstall.NewHostKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		protocol string
		ask      func(ctx context.Context, address string) error
	}{
		"XenAPI": {"tls", func(ctx context.Context, address string) error {
			client, err := xapi.New(xapi.Config{Addresses: []string{"https://" + address}, User: "root", Password: secret, PinSHA256: []string{strings.Repeat("0", 64)}, Logger: quiet})
			if err != nil {
				return err
			}
			return errors.Join(client.Call(ctx, "pool.get_all", nil), client.Close(ctx))
		}},
		"broker": {"tls", func(ctx context.Context, address string) error {
			q, err := amqp.New(amqp.Config{URL: orchestrator.NewSecret("amqps://slipway:Correct-Horse-7@" + address + "/"), PublishTimeout: 3 * time.Second})
			if err != nil {
				return err
			}
			return errors.Join(q.PublishOrder(ctx, queue.Message{ID: "1", Type: "t"}), q.Close())
		}},
		"PostgreSQL": {"postgres", func(ctx context.Context, address string) error {
			s, err := store.Open(ctx, "postgres://slipway:Correct-Horse-7@"+address+"/x?sslmode=verify-full") // the default of other machines: store/postgres
			if err == nil {
				err = s.Close()
			}
			return err
		}},
		"address service": {"tls", func(ctx context.Context, address string) error {
			client, err := ipam.New(ipam.Config{URL: "https://" + address, Token: secret})
			if err != nil {
				return err
			}
			_, err = client.Reservations(ctx, "pool-a")
			return err
		}},
		"monitoring": {"tls", func(ctx context.Context, address string) error {
			client, err := rest.New(rest.Config{URL: "https://" + address, Token: secret})
			if err != nil {
				return err
			}
			defer client.Close()
			_, err = client.ObserveHost(ctx, "m1")
			return err
		}},
		"webhook": {"tls", func(ctx context.Context, address string) error {
			return newNotifier(config.Notify{Webhook: "https://" + address}, quiet).post(ctx, []byte("{}"))
		}},
		"appliance": {"ssh", func(ctx context.Context, address string) error {
			c, err := carrier.NewSSH(carrier.SSHConfig{Address: address, User: "slipway", Key: key, HostKey: pinned, Timeout: 10 * time.Second})
			if err != nil {
				return err
			}
			_, err = c.Apply(ctx, apply.Request{})
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStranger(t, c.protocol)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err := c.ask(ctx, s.address)
			if err == nil || ctx.Err() != nil || strings.Contains(err.Error(), "Correct-Horse") {
				t.Errorf("%v", err)
			}
			if n := s.told.Load(); n != 0 {
				t.Errorf("the stranger was told something: %v", err)
			}
		})
	}
}

// TestInsecureIsSpelledOut: each way to do without a proof has a key of its own, is refused without it, and is said at each start with it.
func TestInsecureIsSpelledOut(t *testing.T) {
	t.Setenv("PGSSLMODE", "")
	const queue = `queue: {kind: amqp, url: "amqp://u@mq.example.net/", insecure: %v}`
	for name, c := range map[string]struct{ text, refusal, said string }{
		"queue.insecure":  {queue, "queue.url: is not encrypted", "queue.insecure: "},
		"notify.insecure": {`notify: {webhook: "http://alerts.example.net/x", insecure: %v}`, "notify.webhook: is not encrypted", "notify.insecure: "},
		"sslmode":         {`database: "postgres://u@db.example.net/x?sslmode=require&application_name=%v"`, "", "sslmode=require takes anybody"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, insecure := range []bool{false, true} {
				cfg, err := config.Parse(fmt.Appendf(nil, c.text, insecure))
				if err != nil {
					t.Fatal(err)
				}
				if refused := strings.Contains(fmt.Sprint(cfg.Validate()), c.refusal); c.refusal != "" && refused == insecure {
					t.Errorf("insecure %v is refused: %v", insecure, refused)
				}
				var log bytes.Buffer
				warnInsecure(cfg, cfg.Database, slog.New(slog.NewTextHandler(&log, nil)))
				if said := strings.Contains(log.String(), c.said); said != (insecure || c.refusal == "") {
					t.Errorf("insecure %v is said at the start: %v, %s", insecure, said, log.String())
				}
			}
		})
	}
}
