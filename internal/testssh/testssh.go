// Package testssh logs in to guests as their customers do.
package testssh

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"slipway/internal/testnet"
)

const (
	dialTimeout = 10 * time.Second
	runTimeout  = time.Minute // guests may be emulated
)

// Run has root of a guest run a command, as seen from a namespace: its output, both streams, and the host key that was shown, which is an
// ed25519 one. Whatever key is shown is taken.
func Run(ctx context.Context, from *testnet.Namespace, key, address, command string) (out, hostKey string, err error) {
	signer, err := ssh.ParsePrivateKey([]byte(key))
	if err != nil {
		return "", "", err
	}
	var conn net.Conn
	from.Do(func() { conn, err = net.DialTimeout("tcp4", net.JoinHostPort(address, "22"), dialTimeout) })
	if err != nil {
		return "", "", err
	}
	defer conn.Close() //nolint:errcheck // the session is over
	_ = conn.SetDeadline(time.Now().Add(runTimeout))
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	transport, channels, requests, err := ssh.NewClientConn(conn, address, &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
		HostKeyCallback: func(_ string, _ net.Addr, shown ssh.PublicKey) error {
			hostKey = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(shown)))
			return nil
		},
	})
	if err != nil {
		return "", hostKey, err
	}
	client := ssh.NewClient(transport, channels, requests)
	defer client.Close() //nolint:errcheck // the session is over
	session, err := client.NewSession()
	if err != nil {
		return "", hostKey, err
	}
	text, err := session.CombinedOutput(command)
	if err != nil {
		err = fmt.Errorf("%s: %w", command, err)
	}
	return string(text), hostKey, err
}
