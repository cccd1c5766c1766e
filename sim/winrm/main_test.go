package winrm_test

import (
	"bufio"
	"context"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"slipway/orchestrator"
	"slipway/sim/winrm"
)

func TestMainPrintsWhereItListens(t *testing.T) {
	for tls, want := range map[bool]string{false: `^http://127\.0\.0\.1:[0-9]+/wsman\n$`, true: `^https://127\.0\.0\.1:[0-9]+/wsman sha256:[0-9a-f]{64}\n$`} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		r, w := io.Pipe()
		done := make(chan error, 1)
		go func() {
			done <- winrm.Main(ctx, winrm.Options{Listen: "127.0.0.1:0", User: user, Password: orchestrator.NewSecret(password), TLS: tls, AllowBasic: true, AllowUnencrypted: true}, w)
			_ = w.Close()
		}()
		line, err := bufio.NewReader(r).ReadString('\n')
		if err != nil || !regexp.MustCompile(want).MatchString(line) {
			t.Errorf("%q, %v", line, err)
		}
		address, _, _ := strings.Cut(strings.SplitAfter(line, "://")[1], "/")
		if _, _, code, err := goClient(t, address, tls, nil, password).RunCmdWithContext(ctx, "exit 3"); err != nil || code != 3 {
			t.Errorf("%d, %v", code, err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if err := winrm.Main(t.Context(), winrm.Options{Listen: "nowhere"}, io.Discard); err == nil {
		t.Error("an address without a port was taken")
	}
}
