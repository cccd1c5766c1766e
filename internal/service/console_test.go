package service_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"slipway/internal/api"
	"slipway/internal/config"
	"slipway/internal/demo"
	"slipway/internal/testenv"
	"slipway/orchestrator"
	"slipway/workers/intake/message"
)

// finished is a worker with a console gateway and one machine that is ready.
func finished(t *testing.T) (s *demo.Site, client *api.Client, machine string) {
	t.Helper()
	s = site(t)
	at := free(t)
	s.Config.Console = config.Console{Listen: at, URL: "http://" + at + "/sub/path"}
	w, _ := work(t, s, io.Discard)
	put(t, w, order())
	client = api.NewClient(s.Config.Socket)
	t.Cleanup(client.Close)
	until(t, "a machine is ready", func() bool {
		var runs []api.Run
		if client.Get(t.Context(), "/v1/runs", &runs) != nil || len(runs) != 1 {
			return false
		}
		machine = runs[0].Machine
		return runs[0].State == "production_ready"
	})
	return s, client, machine
}

func link(t *testing.T, client *api.Client, machine string, ask api.ConsoleAsk) string {
	t.Helper()
	var link api.ConsoleLink
	if err := client.Post(t.Context(), "/v1/console/"+machine, ask, &link); err != nil {
		t.Fatal(err)
	}
	return link.URL
}

// chromium is a browser of its own, without a sandbox since root has none, and without calls to anybody.
func chromium(t *testing.T) context.Context {
	t.Helper()
	program := testenv.Need(t, "chromium")
	home, err := os.MkdirTemp("", "slipway-chromium-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		until(t, "the browser has gone and its profile with it", func() bool { return os.RemoveAll(home) == nil }) // it writes until its end
	})
	allocator, closeAllocator := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(program), chromedp.UserDataDir(filepath.Join(home, "profile")), chromedp.Env("HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_CACHE_HOME="+home),
		chromedp.NoSandbox, chromedp.DisableGPU, chromedp.WindowSize(1280, 800), chromedp.Flag("disable-quic", true), chromedp.Flag("disable-dev-shm-usage", true),
	)...)
	t.Cleanup(closeAllocator)
	tab, closeTab := chromedp.NewContext(allocator)
	t.Cleanup(closeTab)
	return tab
}

// act runs actions in a tab, bounded.
func act(tab context.Context, limit time.Duration, actions ...chromedp.Action) error {
	bounded, cancel := context.WithTimeout(tab, limit)
	defer cancel()
	return chromedp.Run(bounded, actions...)
}

// shot keeps a screenshot where the tests' output is collected.
func shot(name string) chromedp.ActionFunc {
	return func(ctx context.Context) error {
		dir := os.Getenv("SLIPWAY_TEST_OUTPUT")
		if dir == "" {
			return nil
		}
		var png []byte
		if err := chromedp.CaptureScreenshot(&png).Do(ctx); err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644)
	}
}

const (
	// painted reports whether noVNC's canvas shows more than black.
	painted = `(() => { const c = document.querySelector("#screen canvas"); if (!c || !c.width) return false;
		return c.getContext("2d").getImageData(0, 0, c.width, c.height).data.some((v, i) => i % 4 !== 3 && v > 8); })()`
	phaseOpen = `document.body.dataset.phase === "open"`
	phaseOver = `document.body.dataset.phase === "over"`
)

// TestConsoleInABrowser: a customer opens a link, sees the screen and types; the link opens nothing a second time; a screen that went away,
// by a restart or a migration, comes back by itself; and a revoked console says so.
func TestConsoleInABrowser(t *testing.T) {
	s, client, machine := finished(t)
	first := link(t, client, machine, api.ConsoleAsk{User: "ann"})
	tab := chromium(t)
	if err := chromedp.Run(tab); err != nil { // the first run's context is the browser's own
		t.Fatal(err)
	}
	run := func(what string, actions ...chromedp.Action) {
		t.Helper()
		if err := act(tab, 90*time.Second, actions...); err != nil {
			var text, url string
			_ = act(tab, 5*time.Second, chromedp.Evaluate("document.body.innerText", &text), chromedp.Location(&url), shot("failed"))
			t.Fatalf("%s: %v; the page %s says %q", what, err, strings.Split(url, "#")[0], text)
		}
	}
	poll := func(js string) chromedp.Action {
		return chromedp.Poll(js, nil, chromedp.WithPollingTimeout(time.Minute))
	}
	var title, url string
	run("open the link", chromedp.Navigate(first), poll(phaseOpen), poll(painted), shot("console-open"), chromedp.Title(&title), chromedp.Location(&url))
	if !strings.HasPrefix(title, "web-1") || strings.Contains(url, "#") {
		t.Errorf("the page is called %q and its address still shows the token: %v", title, strings.Contains(url, "#"))
	}
	run("type", chromedp.Click("#screen canvas"), chromedp.KeyEvent("Hi!"), chromedp.KeyEvent(kb.Enter))
	run("the button", chromedp.Click("#ctrl-alt-del"))
	const control, alt, del = 0xffe3, 0xffe9, 0xffff
	typed := func() string {
		var b strings.Builder
		for _, key := range s.Typed("web-1") {
			switch key {
			case control:
				b.WriteString("<ctrl>")
			case alt:
				b.WriteString("<alt>")
			case del:
				b.WriteString("<del>")
			case 0xff0d:
				b.WriteString("<enter>")
			case 0xffe1, 0xffe2: // shift, as the keyboard has it
			default:
				b.WriteRune(rune(key))
			}
		}
		return b.String()
	}
	until(t, "the keys reach the machine", func() bool { return strings.HasSuffix(typed(), "<del>") })
	if got := typed(); got != "Hi!<enter><ctrl><alt><del>" {
		t.Errorf("the machine was sent %q", got)
	}

	run("reload", chromedp.Reload(), poll(phaseOpen), poll(painted))
	var text string
	run("the link again, in the same browser", chromedp.Navigate("about:blank"), chromedp.Navigate(first), poll(phaseOpen))

	other := chromium(t)
	if err := chromedp.Run(other); err != nil {
		t.Fatal(err)
	}
	says := func(words string) func() bool {
		return func() bool {
			const js = `document.getElementById("message")?.innerText ?? ""`
			return act(other, 5*time.Second, chromedp.Evaluate(js, &text)) == nil && strings.Contains(text, words) // an error: it reloads
		}
	}
	if err := act(other, time.Minute, chromedp.Navigate(first)); err != nil {
		t.Fatal(err)
	}
	until(t, "a used link is refused in another browser", says("has been used"))
	if err := act(other, time.Minute, shot("console-used"), chromedp.Navigate(link(t, client, machine, api.ConsoleAsk{User: "bob", From: "198.51.100.7"}))); err != nil {
		t.Fatal(err)
	}
	until(t, "a new link in the same tab is tried, and is for another address", says("another address"))

	vm := reference(t, s, machine)
	const sessions = `performance.getEntriesByName(new URL("session", location.href).href).length` // the page asks once for each connection
	for _, goes := range []struct {
		what, method string
		args         []any
	}{
		{"a restart of the machine", "VM.hard_reboot", []any{vm}},
		{"a migration", "VM.pool_migrate", []any{vm, otherHost(t, s, vm), map[string]string{}}},
	} {
		var before int
		run("before "+goes.what, chromedp.Evaluate(sessions, &before))
		if err := s.Call(t.Context(), 0, nil, goes.method, goes.args...); err != nil {
			t.Fatal(err)
		}
		run("after "+goes.what, poll(fmt.Sprintf("%s > %d", sessions, before)), poll(phaseOpen), poll(painted))
	}

	if err := client.Delete(t.Context(), "/v1/console/"+machine, api.Act{Yes: true, Reason: "the customer left"}, nil); err != nil {
		t.Fatal(err)
	}
	run("revoked", poll(phaseOver), chromedp.Text("#message", &text), shot("console-revoked"))
	if !strings.Contains(text, "Access was withdrawn") {
		t.Errorf("the page says %q", text)
	}
}

// reference is the machine's VM in its pool.
func reference(t *testing.T, s *demo.Site, machine string) string {
	t.Helper()
	var all map[string]struct {
		OtherConfig map[string]string `json:"other_config"`
	}
	if err := s.Call(t.Context(), 0, &all, "VM.get_all_records"); err != nil {
		t.Fatal(err)
	}
	for ref, vm := range all {
		if vm.OtherConfig["slipway_machine"] == machine {
			return ref
		}
	}
	t.Fatalf("machine %s has no VM", machine)
	return ""
}

// otherHost is one where a VM is not.
func otherHost(t *testing.T, s *demo.Site, vm string) string {
	t.Helper()
	var at string
	var hosts []string
	if err := errors.Join(s.Call(t.Context(), 0, &at, "VM.get_resident_on", vm), s.Call(t.Context(), 0, &hosts, "host.get_all")); err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts {
		if h != at {
			return h
		}
	}
	t.Fatal("the pool has one host")
	return ""
}

// TestConsoleByOrder: a panel draws the token, orders by its hash, and what it hears opens the screen.
func TestConsoleByOrder(t *testing.T) {
	s, client, machine := finished(t)
	token := bytes.Repeat([]byte{7}, 32)
	o := orchestrator.Order{Source: "panel", ID: "console-1", Type: orchestrator.OrderConsole, Tenant: "acme", Name: "web-1", Viewer: "ann", TokenHash: sha256.Sum256(token)}
	m, err := message.EncodeOrder(o)
	if err != nil {
		t.Fatal(err)
	}
	var accepted api.Accepted
	if err := client.Post(t.Context(), "/v1/orders", m.Body, &accepted); err != nil || accepted.Machine != machine || accepted.Run != "" {
		t.Fatalf("%+v, %v", accepted, err)
	}
	page := s.Config.Console.URL + "/m/" + machine + "/"
	body := `{"token":"` + base64.RawURLEncoding.EncodeToString(token) + `"}`
	for _, want := range []int{http.StatusOK, http.StatusUnauthorized} {
		response, err := http.Post(page+"session", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("the token is answered by %d, want %d", response.StatusCode, want)
		}
	}
}

// TestConsoleThatIsNotThere: a site without a gateway says what to configure.
func TestConsoleThatIsNotThere(t *testing.T) {
	s := site(t)
	work(t, s, io.Discard)
	client := api.NewClient(s.Config.Socket)
	defer client.Close()
	until(t, "serve answers", func() bool { return client.Get(t.Context(), "/v1/runs", nil) == nil })
	err := client.Post(t.Context(), "/v1/console/web-1", api.ConsoleAsk{User: "ann"}, nil)
	if err == nil || !strings.Contains(err.Error(), "console") {
		t.Errorf("%v", err)
	}
	m, err := message.EncodeOrder(orchestrator.Order{Source: "panel", ID: "1", Type: orchestrator.OrderConsole, Tenant: "acme", Name: "web-1", Viewer: "ann", TokenHash: sha256.Sum256(nil)})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Post(t.Context(), "/v1/orders", m.Body, nil); err == nil || !strings.Contains(err.Error(), "console.listen") {
		t.Errorf("an order for a console: %v", err)
	}
}
