package carrier

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"slipway/orchestrator"
	"slipway/workers/appliance/apply"
)

// Command is all that is ever sent to be run. The far side's authorized_keys runs its own in any case:
//
//	restrict,command="sudo -n /usr/bin/slipway agent apply" ssh-ed25519 AAAA… slipway
const Command = "slipway agent apply"

// SSHConfig is one appliance and how to reach it.
type SSHConfig struct {
	Address string // host:port of the member itself, never a floating address
	User    string
	Key     orchestrator.Secret // private key as OpenSSH writes it, without a passphrase
	// HostKey is the public key that the appliance must show, in the form of authorized_keys ("ssh-ed25519 AAAA…"); several, a line each,
	// while it is being exchanged. It is required: nothing is trusted at first sight.
	HostKey string

	Timeout   time.Duration // of one apply; 0 is 3 min
	Handshake time.Duration // of connecting, the key exchange and the login together; 0 is 15 s
	Keepalive time.Duration // an appliance that is silent for so long is asked, and given up after as long again; 0 is 10 s
}

// SSH is an agent behind a forced command. Each apply has a connection of its own.
type SSH struct {
	cfg        SSHConfig
	signer     ssh.Signer
	hostKeys   []ssh.PublicKey
	algorithms []string
}

// NewSSH checks the configuration. It does not connect.
func NewSSH(cfg SSHConfig) (*SSH, error) {
	if _, port, err := net.SplitHostPort(cfg.Address); err != nil || port == "" {
		return nil, fmt.Errorf("address %q: host:port is needed", cfg.Address)
	}
	if cfg.User == "" {
		return nil, errors.New("user: needed")
	}
	signer, err := ssh.ParsePrivateKey([]byte(cfg.Key.Reveal()))
	if err != nil {
		return nil, fmt.Errorf("key: a private key as OpenSSH writes it, without a passphrase, is needed: %w", err)
	}
	s := &SSH{cfg: cfg, signer: signer}
	s.cfg.Key = orchestrator.Secret{}
	s.cfg.Handshake, s.cfg.Keepalive = or(cfg.Handshake, 15*time.Second), or(cfg.Keepalive, 10*time.Second)
	for rest := []byte(strings.TrimSpace(cfg.HostKey)); len(rest) > 0; {
		var key ssh.PublicKey
		if key, _, _, rest, err = ssh.ParseAuthorizedKey(rest); err != nil {
			return nil, errors.New("host key: public keys as in authorized_keys are needed, a line each") // not quoted: it may be a private one
		}
		s.hostKeys = append(s.hostKeys, key)
		// Without this the server shows the type it likes best, and a pinned key of another type looks like a forgery (go#29286).
		s.algorithms = append(s.algorithms, algorithms(key.Type())...)
	}
	if len(s.hostKeys) == 0 {
		return nil, fmt.Errorf("host key: needed for %s; read it on the appliance's own console (/etc/ssh/ssh_host_ed25519_key.pub)", cfg.Address)
	}
	return s, nil
}

// algorithms are the signatures that a key of the type can give; SHA-1 is none.
func algorithms(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{keyType}
}

// Apply connects, runs the forced command with the request on its input, and reads the answer.
func (s *SSH) Apply(ctx context.Context, req apply.Request) (apply.Answer, error) {
	const op = "carrier.SSH"
	body, err := json.Marshal(req)
	if err != nil {
		return apply.Answer{}, orchestrator.E(op, orchestrator.Permanent, err)
	}
	ctx, cancel := withTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	client, err := s.connect(ctx)
	if err != nil {
		return apply.Answer{}, orchestrator.E(op, connectKind(err), fmt.Errorf("%s: %w", s.cfg.Address, err))
	}
	defer client.Close() //nolint:errcheck // the answer is here or it is not
	guard := watch(ctx, client, s.cfg.Keepalive)
	answer, err := s.exchange(client, body, room(req))
	cause := guard.stop()
	if err == nil {
		return answer, nil
	}
	if cause != nil {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return apply.Answer{}, err
}

// errHostKey is an appliance that shows a key which is not pinned.
var errHostKey = errors.New("host key is not the pinned one")

func (s *SSH) verify(_ string, _ net.Addr, key ssh.PublicKey) error {
	for _, pinned := range s.hostKeys {
		if bytes.Equal(pinned.Marshal(), key.Marshal()) {
			return nil
		}
	}
	return fmt.Errorf("%w: it shows %s", errHostKey, ssh.FingerprintSHA256(key))
}

// connect dials and logs in, all of it within the handshake's time: ClientConfig.Timeout is for dialling alone, and a mute server would
// hold the key exchange for ever.
func (s *SSH) connect(ctx context.Context) (*ssh.Client, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.Handshake, fmt.Errorf("no SSH connection after %s", s.cfg.Handshake))
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.cfg.Address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	clientConn, channels, requests, err := ssh.NewClientConn(conn, s.cfg.Address, &ssh.ClientConfig{
		User: s.cfg.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(s.signer)},
		HostKeyCallback: s.verify, HostKeyAlgorithms: s.algorithms,
	})
	if err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		return nil, err
	}
	if !stop() { // the time ran out in the last moment, and the connection is being closed
		_ = clientConn.Close()
		return nil, context.Cause(ctx)
	}
	return ssh.NewClient(clientConn, channels, requests), nil
}

// connectKind: before the command was sent nothing has happened there, whatever went wrong.
func connectKind(err error) orchestrator.Kind {
	var negotiation *ssh.AlgorithmNegotiationError
	switch {
	case errors.Is(err, errHostKey), errors.As(err, &negotiation), loginRefused(err):
		return orchestrator.Permanent
	case errors.Is(err, context.Canceled):
		return orchestrator.Canceled
	default:
		return orchestrator.Transient
	}
}

// loginRefused: the library has no type for it on the client's side.
func loginRefused(err error) bool {
	return strings.Contains(err.Error(), "ssh: unable to authenticate")
}

// exchange runs the command. From its start on, an end without an answer is Unknown: closing a session ends no process over there.
func (s *SSH) exchange(client *ssh.Client, body []byte, room int) (apply.Answer, error) {
	const op = "carrier.SSH"
	session, err := client.NewSession()
	if err != nil {
		return apply.Answer{}, orchestrator.Errorf(op, orchestrator.Transient, "%s: session: %w", s.cfg.Address, err)
	}
	defer session.Close() //nolint:errcheck // see above
	var complaint stderr
	session.Stdin, session.Stderr = bytes.NewReader(body), &complaint
	output, err := session.StdoutPipe()
	if err != nil {
		return apply.Answer{}, orchestrator.E(op, orchestrator.Transient, err)
	}
	if err := session.Start(Command); err != nil {
		return apply.Answer{}, orchestrator.Errorf(op, orchestrator.Unknown, "%s: start: %w", s.cfg.Address, err)
	}
	answer, err := readAnswer(output, room)
	if err == nil {
		return answer, nil // the exit status would say no more, and a daemon may hold the output open
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) { // it talks on, and not to us
		return apply.Answer{}, orchestrator.Errorf(op, orchestrator.Unknown, "%s: %w: %s", s.cfg.Address, err, complaint.String())
	}
	status, waitErr := wait(session)
	return apply.Answer{}, noAnswer(op, s.cfg.Address, waitErr, status, complaint.String(), err)
}

// wait gives the command's own exit status, or -1 when it was killed or the connection was lost (ExitMissingError).
func wait(session *ssh.Session) (int, error) {
	err := session.Wait()
	var exit *ssh.ExitError
	if errors.As(err, &exit) && exit.Signal() == "" {
		return exit.ExitStatus(), err
	}
	return -1, err
}
