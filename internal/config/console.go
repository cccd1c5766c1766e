package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"time"
)

// Console is the gateway that shows machines' screens to their customers; without Listen there is none.
type Console struct {
	// Listen serves browsers: HOST:PORT. VNC serves viewers of RFB; "" serves none.
	Listen string `yaml:"listen"`
	VNC    string `yaml:"vnc"`
	URL    string `yaml:"url"` // that browsers reach Listen by
	// Cert and Key make both listeners speak TLS. Without them they are on loopback, behind a proxy, unless Insecure is said.
	Cert     string `yaml:"cert"`
	Key      Secret `yaml:"key"`
	Insecure bool   `yaml:"insecure"`
	// Proxies are believed when they say for whom they ask (X-Forwarded-For).
	Proxies    []Prefix      `yaml:"proxies"`
	TokenLife  time.Duration `yaml:"token_life"`  // default 1m
	SessionAge time.Duration `yaml:"session_age"` // default 8h
}

// IsZero reports whether there is no gateway.
func (c Console) IsZero() bool { return c.Listen == "" && c.VNC == "" && c.URL == "" }

func (c Console) validate(add func(field, problem, fix string)) {
	if c.IsZero() {
		return
	}
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		add("console.url", "is not a URL", "give the one that browsers reach the console by, such as https://console.example.net")
	case u.Path != "" && path.Clean(u.Path) != strings.TrimRight(u.Path, "/") && u.Path != "/" || strings.ContainsAny(u.Path, "{}"):
		add("console.url", "has an empty or odd part in its path", "use plain names between single slashes")
	case u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		add("console.url", "has more than scheme, host and path", "leave out the rest")
	case u.Scheme == "http" && !c.Insecure && !isLoopback(u.Host):
		add("console.url", "is plain http: whoever sits on the path sees the screen and every key", "use https, or say console.insecure for a laboratory")
	}
	if (c.Cert == "") != c.Key.IsZero() {
		add("console.cert", "comes with its key or not at all", "give both console.cert and console.key")
	}
	if c.Listen == "" {
		add("console.listen", "is missing", "write one such as 127.0.0.1:6080")
	}
	for _, l := range []struct{ field, value string }{{"console.listen", c.Listen}, {"console.vnc", c.VNC}} {
		if l.value == "" {
			continue
		}
		_, port, err := net.SplitHostPort(l.value)
		switch {
		case err != nil || port == "":
			add(l.field, fmt.Sprintf("%q is not HOST:PORT", clip(l.value)), "write one such as 127.0.0.1:6080")
		case c.Cert == "" && !c.Insecure && !isLoopback(l.value):
			add(l.field, "is not on loopback and has no TLS", "give console.cert and console.key, listen on 127.0.0.1 behind a proxy, or say console.insecure for a laboratory")
		}
	}
	if c.TokenLife < 0 || c.TokenLife > time.Hour {
		add("console.token_life", fmt.Sprintf("%s is out of range", c.TokenLife), "use 1m, and at most 1h")
	}
	if c.SessionAge < 0 || c.SessionAge > 7*24*time.Hour {
		add("console.session_age", fmt.Sprintf("%s is out of range", c.SessionAge), "use 8h, and at most 168h")
	}
}

// isLoopback reports whether a host, or HOST:PORT, is this machine only.
func isLoopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}
