package amqp

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"slipway/orchestrator"
)

// Config says where the broker is and how patient we are with it.
type Config struct {
	// URL is amqp://user:password@host:port/vhost, or amqps:// for TLS, which verifies the broker's certificate and host name.
	URL orchestrator.Secret
	// CAFile holds the PEM certificates that sign the broker's; "" is the system's.
	CAFile string
	// Log is told of connections made and lost. nil discards.
	Log *slog.Logger

	// Keepalive is how often a Requester that waits for an answer makes sure that somebody still has its request; 0 is 5 s.
	Keepalive      time.Duration
	Heartbeat      time.Duration // 0 is 10 s; a dead peer is noticed after three of them
	ConnectTimeout time.Duration // one attempt, TLS and handshake included; 0 is 10 s
	PublishTimeout time.Duration // one publish with its confirmations, waiting for a connection included; 0 is 30 s
	// The pause between two attempts to connect doubles from BackoffMin (0 is 200 ms) to BackoffMax (0 is 15 s), less up to half of it
	// by chance, so that many workers do not come back at once. Attempts go on until the context ends.
	BackoffMin, BackoffMax time.Duration
}

func (c Config) withDefaults() Config {
	orElse := func(d *time.Duration, usual time.Duration) {
		if *d <= 0 {
			*d = usual
		}
	}
	orElse(&c.Heartbeat, 10*time.Second)
	orElse(&c.Keepalive, 5*time.Second)
	orElse(&c.ConnectTimeout, 10*time.Second)
	orElse(&c.PublishTimeout, 30*time.Second)
	orElse(&c.BackoffMin, 200*time.Millisecond)
	orElse(&c.BackoffMax, 15*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Redact is a broker's address without its password, fit for logs. What cannot be read is not shown at all.
func Redact(address orchestrator.Secret) string {
	u, err := url.Parse(address.Reveal())
	if err != nil || u.Host == "" {
		return "[unreadable address]"
	}
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path} // no query: it may name key files
	if u.User != nil {
		shown.User = url.User(u.User.Username())
	}
	return shown.String()
}

// check refuses an address that cannot work. The library's own message would repeat the password.
func (c Config) check() (*tls.Config, error) {
	uri, err := amqp091.ParseURI(c.URL.Reveal())
	if err != nil {
		return nil, errors.New("the broker's address is not readable: write amqp://user:password@host:5672/vhost, or amqps:// for TLS, " +
			"with special characters percent-encoded")
	}
	if uri.Scheme != "amqps" {
		if c.CAFile != "" {
			return nil, errors.New("a CA file is given but the broker's address is amqp://, which is not encrypted: write amqps://")
		}
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: uri.Host}
	if c.CAFile != "" {
		text, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the broker's CA: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no PEM certificate", c.CAFile)
		}
	}
	return config, nil
}
