// Package config reads slipway's configuration file: YAML, strict (an unknown key names the nearest right one), with secrets kept outside
// of it. Load only reads; `slipway check` also tries what it says.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"slipway/orchestrator"
)

// Config is the whole file. Relative paths are taken from the file's directory.
type Config struct {
	StateDir string `yaml:"state_dir"` // default /var/lib/slipway
	// Database is "sqlite:PATH" or "postgres://…"; default sqlite:STATE_DIR/slipway.db. DatabasePassword goes in beside a postgres URL.
	Database         string `yaml:"database"`
	DatabasePassword Secret `yaml:"database_password"`
	// Socket is where the operators' verbs talk to serve; default STATE_DIR/slipway.sock.
	Socket string `yaml:"socket"`
	// Listen serves /healthz, /readyz and /metrics; "" serves none.
	Listen   string `yaml:"listen"`
	VaultKey Secret `yaml:"vault_key"` // 64 hex digits
	Queue    Queue  `yaml:"queue"`
	// Templates overrides embedded templates file by file; "" uses the embedded ones.
	Templates  string        `yaml:"templates"`
	LoginKey   Secret        `yaml:"login_key"` // private SSH key that the templates let in
	WinRM      WinRM         `yaml:"winrm"`
	Quarantine time.Duration `yaml:"quarantine"` // default 24h
	Workers    int           `yaml:"workers"`    // runs driven at once; default 64
	// TenantRuns is how many runs a tenant may have under way; further orders wait. Default 500.
	TenantRuns int `yaml:"tenant_runs"`
	// BootTimeout is how long a guest may take from its VM's start until it answers; then the run parks. Default 30m.
	BootTimeout time.Duration `yaml:"boot_timeout"`
	// Lease is how long a worker that died keeps its runs from the others; default 1m.
	Lease      time.Duration `yaml:"lease"`
	Notify     Notify        `yaml:"notify"`
	Audit      Audit         `yaml:"audit"`
	Guard      Guard         `yaml:"guard"`
	Console    Console       `yaml:"console"`
	Monitoring Monitoring    `yaml:"monitoring"`
	IPAM       []IPAM        `yaml:"ipam"`
	Pools      []Pool        `yaml:"pools"`
	Groups     []Group       `yaml:"groups"`
}

// Queue chooses where orders come from.
type Queue struct {
	Kind     string `yaml:"kind"` // "embedded" (default) or "amqp"
	URL      string `yaml:"url"`  // amqp:// or amqps://, without a password
	Password Secret `yaml:"password"`
	CAFile   string `yaml:"ca_file"`  // for amqps; default the system's
	Insecure bool   `yaml:"insecure"` // amqp:// to another machine; logged at every start
	Prefetch int    `yaml:"prefetch"` // default 32
}

// Notify is told of every run that parks.
type Notify struct {
	Webhook  string   `yaml:"webhook"`  // POSTed the parked event
	Insecure bool     `yaml:"insecure"` // a webhook by plain http on another machine; logged at every start
	Command  []string `yaml:"command"`  // run with the parked event on its standard input, no shell
}

// Audit is how often the database is held against pools and appliances.
type Audit struct {
	Every time.Duration `yaml:"every"` // default 15m; below 0 is never
}

// IPAM is a service of somebody else's that gives out the addresses of the pools that name it.
type IPAM struct {
	ID     string `yaml:"id"`
	URL    string `yaml:"url"` // https, or http on 127.0.0.1
	Token  Secret `yaml:"token"`
	CAFile string `yaml:"ca_file"` // default the system's
}

// Pool is one pool.
type Pool struct {
	ID           string                 `yaml:"id"`
	Strategy     string                 `yaml:"strategy"` // "nat" (default) or "routed"
	XenAPI       XenAPI                 `yaml:"xenapi"`
	Network      string                 `yaml:"network"` // XenAPI network uuid
	Images       map[string]Image       `yaml:"images"`
	IPAM         string                 `yaml:"ipam"` // id of the service that gives out its addresses; "" is slipway itself
	Private      Subnet                 `yaml:"private"`
	Public       Subnet                 `yaml:"public"`
	MACPrefix    string                 `yaml:"mac_prefix"` // default 02:16:3e
	DHCP         []string               `yaml:"dhcp"`
	Firewall     []string               `yaml:"firewall"`
	Console      []string               `yaml:"console"`
	ConsolePorts orchestrator.PortRange `yaml:"console_ports"`
	// ConsoleBackend is "xvp" (default) or "gateway". It counts while the pool has no machines; then they are moved.
	ConsoleBackend string   `yaml:"console_backend"`
	Installer      []Prefix `yaml:"installer"`
	DNS            DNS      `yaml:"dns"`
	// InFlight is how many runs a worker drives in this pool at once; default its share of Workers, see Config.InFlight.
	InFlight int `yaml:"in_flight"`
}

// XenAPI is how to reach a pool's toolstack.
type XenAPI struct {
	Addresses []string `yaml:"addresses"` // https:// URLs of the members, in any order
	User      string   `yaml:"user"`
	Password  Secret   `yaml:"password"`
	CAFile    string   `yaml:"ca_file"`
	PinSHA256 Words    `yaml:"pin_sha256"` // of the members' certificates, hex; one, or a list with one for each member
	Insecure  bool     `yaml:"insecure"`   // take any certificate; logged at every start
}

// Image is a template of a pool. It is reached over SSH and has a HostKey, or over WinRM and has a WinRM.
type Image struct {
	Template string      `yaml:"template"` // uuid; "" finds the template whose other_config slipway_image is the image's key
	HostKey  string      `yaml:"host_key"` // the template's own public SSH host key, the first that is accepted
	WinRM    *WinRMLogin `yaml:"winrm"`
}

// WinRMLogin is how a Windows template lets the installer in.
type WinRMLogin struct {
	Password  Secret `yaml:"password"`   // of the account that the catalogue names; the installer removes the account at its end
	PinSHA256 Words  `yaml:"pin_sha256"` // of its WinRM certificate, hex: the first that is accepted; a list while a template is exchanged
}

// WinRM is how all Windows guests are spoken to. The zero value is HTTPS with a pinned certificate, and NTLM.
type WinRM struct {
	InsecureHTTP bool `yaml:"insecure_http"` // no TLS: NTLM encrypts, and no certificate proves whose guest it is; logged at every start
	Basic        bool `yaml:"basic"`         // Basic in place of NTLM, over HTTPS
}

// Subnet is a network and what may be given out of it.
type Subnet struct {
	Prefix   Prefix  `yaml:"prefix"`
	Gateway  Addr    `yaml:"gateway"`
	Ranges   []Range `yaml:"ranges"`
	Reserved []Addr  `yaml:"reserved"`
	Delivery string  `yaml:"delivery"` // of public addresses: "routed" (default) or "arp"
}

// Group is a group of appliances.
type Group struct {
	ID         string        `yaml:"id"`
	Unit       string        `yaml:"unit"`        // "dhcp", "firewall" or "console"
	MinApplied int           `yaml:"min_applied"` // default all members
	Capacity   int           `yaml:"capacity"`
	Interval   time.Duration `yaml:"interval"` // between two applies; default 1.5s
	Members    []Member      `yaml:"members"`
	// Foreign lists addresses inside the pools' prefixes that are not slipway's (gateways, the site's servers), and Inside the interfaces
	// that the machines are behind (firewall groups only).
	Foreign []Prefix `yaml:"foreign"`
	Inside  []string `yaml:"inside"`
	// Accounts are what xvp logs in to the pools with (console groups only), an account of its own per pool.
	Accounts map[string]Account `yaml:"accounts"`
}

// Account is xvp's account at a pool: a password of at most 16 bytes, since xvp takes no more.
type Account struct {
	User     string   `yaml:"user"`
	Password Secret   `yaml:"password"`
	Hosts    []string `yaml:"hosts"` // host names or "ADDRESS NAME"
}

// Member is one appliance.
type Member struct {
	Name  string      `yaml:"name"`
	Local *LocalAgent `yaml:"local"`
	SSH   *SSHAgent   `yaml:"ssh"`
	Queue *QueueAgent `yaml:"queue"`
	// Gateway is the member of a console group that stands for the project's own gateways, which read the store.
	Gateway bool `yaml:"gateway"`
	// Address is where a member of a console group is reached by customers and by our own check: host, without a port.
	Address string `yaml:"address"`
}

// LocalAgent runs `slipway agent apply` on this machine.
type LocalAgent struct {
	Config string `yaml:"config"` // the agent's own configuration file
}

// SSHAgent reaches `slipway agent apply` as the forced command of a key.
type SSHAgent struct {
	Address string `yaml:"address"` // host:port
	User    string `yaml:"user"`
	Key     Secret `yaml:"key"`      // private key without a passphrase
	HostKey string `yaml:"host_key"` // public key of the appliance, pinned
}

// QueueAgent reaches `slipway agent serve` over the broker of the configuration's queue.
type QueueAgent struct {
	Agent string `yaml:"agent"` // its name: it listens at slipway.agent.NAME
	Key   Secret `yaml:"key"`   // private Ed25519 key that signs what it is asked
}

// Secret says where a secret is; exactly one field is set.
type Secret struct {
	File       string `yaml:"file"`
	Env        string `yaml:"env"`
	Credential string `yaml:"credential"` // systemd: LoadCredential=, read from $CREDENTIALS_DIRECTORY
}

// IsZero reports whether nothing is said.
func (s Secret) IsZero() bool { return s == Secret{} }

// ErrUnusable marks the errors of what a configuration names and what is not as it should be: a secret that is not there, templates that are
// none, an address that somebody else listens on.
var ErrUnusable = errors.New("the configuration cannot be used")

type unusable struct{ error }

func (u unusable) Is(target error) bool { return target == ErrUnusable }
func (u unusable) Unwrap() error        { return u.error }

// Unusable marks an error with ErrUnusable; its text stays.
func Unusable(err error) error {
	if err == nil {
		return nil
	}
	return unusable{err}
}

// Read gets the secret, without surrounding white space. Its errors are ErrUnusable.
func (s Secret) Read() (orchestrator.Secret, error) {
	v, err := s.read()
	return v, Unusable(err)
}

func (s Secret) read() (orchestrator.Secret, error) {
	set := 0
	for _, v := range []string{s.File, s.Env, s.Credential} {
		if v != "" {
			set++
		}
	}
	if set != 1 {
		return orchestrator.Secret{}, errors.New("name exactly one of file, env and credential")
	}
	if s.Env != "" {
		v := os.Getenv(s.Env)
		if v == "" {
			return orchestrator.Secret{}, fmt.Errorf("the environment variable %s is empty", s.Env)
		}
		return orchestrator.NewSecret(v), nil
	}
	path := s.File
	if s.Credential != "" {
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return orchestrator.Secret{}, fmt.Errorf("credential %s: CREDENTIALS_DIRECTORY is not set; add LoadCredential=%s to the unit", s.Credential, s.Credential)
		}
		path = filepath.Join(dir, filepath.Base(s.Credential))
	}
	body, err := read(path, maxSecret)
	if err != nil {
		return orchestrator.Secret{}, err
	}
	v := strings.TrimSpace(string(body))
	if v == "" {
		return orchestrator.Secret{}, fmt.Errorf("%s is empty", path)
	}
	return orchestrator.NewSecret(v), nil
}

// What a file may have: far more than any configuration, and than any key, has.
const (
	maxFile   = 8 << 20
	maxSecret = 64 << 10
)

// read reads a file that may be no file: a device without end is not read to it.
func read(path string, most int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err == nil && len(body) > most {
		return nil, fmt.Errorf("%s has more than %d bytes: is it the file that was meant?", path, most)
	}
	return body, err
}

// Load reads and checks a file. Errors name the key, the problem and the fix, one per line.
func Load(path string) (*Config, error) {
	body, err := read(path, maxFile)
	if err != nil {
		return nil, err
	}
	c, err := Parse(body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	c.resolve(filepath.Dir(path))
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("%s:\n%w", path, err)
	}
	return c, nil
}

// Parse reads the text strictly and fills in defaults; Validate is the caller's.
func Parse(body []byte) (*Config, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(body))
	decoder.KnownFields(true)
	c := preset()
	if err := decoder.Decode(&c); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("is empty; see deploy/slipway.example.yaml")
		}
		return nil, explain(body, err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("holds more than one document; keep one")
	}
	c.defaults()
	return &c, nil
}

// preset has the numbers and durations that hold where the file is silent. They are there before the file is read: a zero that it says is
// kept, and Validate refuses it where it has no meaning.
func preset() Config {
	return Config{
		Queue: Queue{Prefetch: 32}, BootTimeout: 30 * time.Minute, Quarantine: 24 * time.Hour, Workers: 64, TenantRuns: 500, Lease: time.Minute,
		Audit:   Audit{Every: 15 * time.Minute},
		Guard:   Guard{Window: 10 * time.Minute, Uninstalls: 100, Suspensions: 250},
		Console: Console{TokenLife: time.Minute, SessionAge: 8 * time.Hour},
	}
}

// defaults fills in what depends on other keys, and what a list's items leave out.
func (c *Config) defaults() {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	def(&c.StateDir, "/var/lib/slipway")
	def(&c.Database, "sqlite:"+filepath.Join(c.StateDir, "slipway.db"))
	def(&c.Socket, filepath.Join(c.StateDir, "slipway.sock"))
	def(&c.Queue.Kind, "embedded")
	for i := range c.Pools {
		def(&c.Pools[i].Strategy, string(orchestrator.NAT))
		def(&c.Pools[i].MACPrefix, "02:16:3e")
	}
	for i := range c.Groups {
		if c.Groups[i].MinApplied == 0 {
			c.Groups[i].MinApplied = len(c.Groups[i].Members)
		}
	}
}

// resolve makes relative paths absolute.
func (c *Config) resolve(dir string) {
	abs := func(paths ...*string) {
		for _, p := range paths {
			if *p != "" && !filepath.IsAbs(*p) {
				*p = filepath.Join(dir, *p)
			}
		}
	}
	abs(&c.StateDir, &c.Socket, &c.Templates, &c.Queue.CAFile, &c.DatabasePassword.File, &c.VaultKey.File, &c.LoginKey.File, &c.Queue.Password.File, &c.Console.Cert, &c.Console.Key.File)
	abs(&c.Monitoring.Token.File, &c.Monitoring.CAFile)
	if file, ok := strings.CutPrefix(c.Database, "sqlite:"); ok && file != "" && !filepath.IsAbs(file) {
		c.Database = "sqlite:" + filepath.Join(dir, file)
	}
	for i := range c.Pools {
		abs(&c.Pools[i].XenAPI.CAFile, &c.Pools[i].XenAPI.Password.File, &c.Pools[i].DNS.Key.Secret.File)
		for _, image := range c.Pools[i].Images {
			if image.WinRM != nil {
				abs(&image.WinRM.Password.File)
			}
		}
	}
	for i := range c.IPAM {
		abs(&c.IPAM[i].CAFile, &c.IPAM[i].Token.File)
	}
	for i := range c.Groups {
		for id, a := range c.Groups[i].Accounts {
			abs(&a.Password.File)
			c.Groups[i].Accounts[id] = a
		}
		for _, m := range c.Groups[i].Members {
			if m.Local != nil {
				abs(&m.Local.Config)
			}
			if m.SSH != nil {
				abs(&m.SSH.Key.File)
			}
			if m.Queue != nil {
				abs(&m.Queue.Key.File)
			}
		}
	}
}

// Estate is what the domain knows of the configuration.
func (c *Config) Estate(images []string) *orchestrator.Estate {
	e := &orchestrator.Estate{Images: images, Quarantine: c.Quarantine, Monitored: c.Monitoring.URL != ""}
	for _, p := range c.Pools {
		pool := orchestrator.Pool{
			ID: p.ID, Strategy: orchestrator.Strategy(p.Strategy), IPAM: p.IPAM, Network: p.Network, MACPrefix: p.MACPrefix,
			Private: p.Private.domain(), Public: p.Public.domain(), DHCP: p.DHCP, Firewall: p.Firewall, Console: p.Console, ConsolePorts: p.ConsolePorts,
			DNS: p.DNS.domain(),
		}
		for image := range p.Images {
			pool.Images = append(pool.Images, image)
		}
		slices.Sort(pool.Images)
		for _, prefix := range p.Installer {
			pool.Installer = append(pool.Installer, netip.Prefix(prefix))
		}
		e.Pools = append(e.Pools, pool)
	}
	return e
}

func (s Subnet) domain() orchestrator.Subnet {
	out := orchestrator.Subnet{Prefix: netip.Prefix(s.Prefix), Gateway: netip.Addr(s.Gateway), Delivery: orchestrator.Delivery(s.Delivery)}
	for _, r := range s.Ranges {
		out.Ranges = append(out.Ranges, orchestrator.AddressRange(r))
	}
	for _, a := range s.Reserved {
		out.Reserved = append(out.Reserved, netip.Addr(a))
	}
	return out
}

// DomainGroups is what the store keeps of the groups.
func (c *Config) DomainGroups() ([]orchestrator.Group, []orchestrator.Member) {
	var groups []orchestrator.Group
	var members []orchestrator.Member
	for _, g := range c.Groups {
		groups = append(groups, orchestrator.Group{ID: g.ID, Unit: orchestrator.Unit(g.Unit), MinApplied: g.MinApplied, Capacity: g.Capacity})
		for _, m := range g.Members {
			members = append(members, orchestrator.Member{Group: g.ID, Name: m.Name})
		}
	}
	return groups, members
}

// InFlight is how many runs a worker drives at once in each pool, by its id, and in none yet (""): where there are several pools, one that
// hangs leaves the others their part.
func (c *Config) InFlight() map[string]int {
	const least = 8
	bounds := map[string]int{"": max(1, c.Workers/2)}
	for _, p := range c.Pools {
		bounds[p.ID] = p.InFlight
		if p.InFlight == 0 {
			bounds[p.ID] = min(c.Workers, max(least, c.Workers/len(c.Pools)))
		}
	}
	return bounds
}
