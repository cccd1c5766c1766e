package ssh_test

import (
	"crypto/rand"
	"net"
	"strings"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"slipway/orchestrator"
	"slipway/workers/postinstall"
)

// maintained changes keys and name of a finished guest through its real sshd, and sees that the installer's key is good for nothing else.
func (b *realBundle) maintained(t *testing.T) {
	t.Helper()
	const own = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIM3iPYeUcyvKhL5gE7fMta8g76VmVqqlzYuF8sil6c26 the customer's own"
	const file = "/root/.ssh/authorized_keys"
	if out, err := b.guest.Run(t.Context(), "bash", "-c", `printf '# mine\n%s\n' "$1" >>`+file, "bash", own); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	before, err := b.guest.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	key, line, err := postinstall.NewHostKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	line = strings.TrimSpace(line) + " $(reboot) `x` 'y"
	change := orchestrator.GuestChange{Hostname: "shop.example.net", Drop: b.job.SSHKeys, Keys: []string{line}}
	for range 2 { // twice is like once
		if err := b.installer.ChangeGuest(t.Context(), b.ref, change); err != nil {
			t.Fatal(err)
		}
	}
	after, err := b.guest.ReadFile(file)
	if want := strings.Replace(string(before), b.job.SSHKeys[0], line, 1); err != nil || string(after) != want {
		t.Errorf("%v, authorized_keys:\n%swant:\n%s", err, after, want)
	}
	if name, err := b.guest.Run(t.Context(), "hostname"); err != nil || name != "shop.example.net\n" {
		t.Errorf("hostname %q, %v", name, err)
	}
	signer, err := xssh.ParsePrivateKey([]byte(key.Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := b.login(t, signer, "echo in"); err != nil || out != "in\n" {
		t.Errorf("the new key: %q, %v", out, err)
	}
	if out, err := b.login(t, b.config.Key, "id"); err == nil || strings.Contains(out, "uid=") {
		t.Errorf("the installer's key runs a command: %q, %v", out, err)
	}
	for name, bad := range map[string]string{
		"nothing": "", "a command": "id\n", "cut off": "slipway-maintain 1\nhostname x\n", "a name": "slipway-maintain 1\nhostname a b\nend\n",
		"options": "slipway-maintain 1\naccount root\nkey command=\"x\" ssh-ed25519 AAAA\nend\n", "nobody": "slipway-maintain 1\nkey ssh-ed25519 AAAA\nend\n",
	} {
		if out, err := b.ask(t, b.config.Key, "anything", bad); err == nil {
			t.Errorf("%s is taken: %q", name, out)
		}
	}
	if now, err := b.guest.ReadFile(file); err != nil || string(now) != string(after) {
		t.Errorf("what was refused has changed something: %v\n%s", err, now)
	}
	back := orchestrator.GuestChange{Hostname: "web1.example.net", Drop: []string{line}, Keys: b.job.SSHKeys}
	if err := b.installer.ChangeGuest(t.Context(), b.ref, back); err != nil {
		t.Fatal(err)
	}
	if now, err := b.guest.ReadFile(file); err != nil || string(now) != string(before) {
		t.Errorf("taken back: %v\n%s", err, now)
	}
	if _, err := b.login(t, signer, "echo in"); err == nil {
		t.Error("a key that is gone logs in")
	}
	if err := b.installer.Leave(t.Context(), b.ref); err != nil {
		t.Errorf("left twice: %v", err)
	}

	// The customer takes the way in away.
	if out, err := b.guest.Run(t.Context(), "sed", "-i", "/^restrict/d", file); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := b.installer.ChangeGuest(t.Context(), b.ref, change); orchestrator.KindOf(err) != orchestrator.Permanent || !strings.Contains(err.Error(), "change keys and hostname in the guest") {
		t.Errorf("without the line: %v", err)
	}
}

func (b *realBundle) login(t *testing.T, key xssh.Signer, command string) (string, error) {
	t.Helper()
	return b.ask(t, key, command, "")
}

// ask is anybody's ssh client.
func (b *realBundle) ask(t *testing.T, key xssh.Signer, command, stdin string) (string, error) {
	t.Helper()
	var conn net.Conn
	conn, err := b.config.Dial(t.Context(), "tcp", b.ref.Address.String())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	c, channels, requests, err := xssh.NewClientConn(conn, b.ref.Address.String(), &xssh.ClientConfig{
		User: "root", Auth: []xssh.AuthMethod{xssh.PublicKeys(key)}, HostKeyCallback: xssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		_ = conn.Close()
		return "", err
	}
	client := xssh.NewClient(c, channels, requests)
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return "", err
	}
	session.Stdin = strings.NewReader(stdin)
	out, err := session.CombinedOutput(command)
	return string(out), err
}
