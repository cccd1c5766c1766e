package winrm

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"slipway/orchestrator"
)

// Options are those of `slipway sim winrm`.
type Options struct {
	Listen           string // HOST:PORT
	User             string
	Password         orchestrator.Secret
	Name             string // computer name
	TLS              bool
	AllowBasic       bool
	AllowUnencrypted bool
	// Boot makes the guest go through a first boot: for this long each nothing listens, HTTP says 503, logins are refused and Windows Setup
	// runs. Zero is ready at once. A restart takes as long, without the Setup.
	Boot   time.Duration
	Logger *slog.Logger
}

// Main runs a guest until the context ends. It prints one line: the address, and with TLS the template certificate's SHA-256 pin.
func Main(ctx context.Context, opts Options, stdout io.Writer) error {
	config := Config{
		User: opts.User, Password: opts.Password, Name: opts.Name, AllowBasic: opts.AllowBasic, AllowUnencrypted: opts.AllowUnencrypted, Logger: opts.Logger,
	}
	host, _, err := net.SplitHostPort(opts.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w: want HOST:PORT such as 127.0.0.1:5986", err)
	}
	if opts.Boot > 0 {
		config.Boot = []Window{{Refused, opts.Boot}, {Unavailable, opts.Boot}, {Unauthorized, opts.Boot}, {Setup, opts.Boot}}
		config.Restart = []Window{{Refused, opts.Boot}, {Unavailable, opts.Boot}, {Unauthorized, opts.Boot}}
	}
	scheme, shown := "http", ""
	if opts.TLS {
		var certificate tls.Certificate
		if certificate, shown, err = SelfSigned(host); err != nil {
			return err
		}
		config.Certificate = &certificate
		scheme, shown = "https", " sha256:"+shown
	}
	s, err := New(config)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	address, err := s.Start(ctx, opts.Listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s://%s/wsman%s\n", scheme, address, shown)
	<-ctx.Done()
	return nil
}
