package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// DefaultStateDir is where an agent remembers, unless its configuration says otherwise.
const DefaultStateDir = "/var/lib/slipway/agent"

// maxConfig bounds a configuration file in bytes.
const maxConfig = 1 << 20

// Config is an appliance's own file, YAML or JSON:
//
//	state_dir: /var/lib/slipway/agent
//	units:
//	  dhcp:
//	    driver: isc-dhcpd
//	    main: /etc/dhcp/dhcpd.conf
//	    include: /etc/dhcp/slipway-hosts.conf
//
// `service: none` in a unit makes it a directory appliance: files are judged where the tool is installed and put in place, and nothing
// is reloaded or read back from a service.
type Config struct {
	StateDir string        `yaml:"state_dir"` // absolute; "" is DefaultStateDir
	LockWait time.Duration `yaml:"lock_wait"` // how long to wait for another apply of the same unit; 0 is 10 s
	Timeout  time.Duration `yaml:"timeout"`   // of a whole apply, restoring not counted; 0 is 2 min
	// RestoreTimeout bounds putting the old state back, which goes on after Timeout and after a caller's cancel; 0 is 1 min.
	RestoreTimeout time.Duration       `yaml:"restore_timeout"`
	Units          map[string]Settings `yaml:"units"` // by the request's unit name
	// Queue is for an agent that listens on a broker; the command line knows what is in it.
	Queue *Section `yaml:"queue"`
}

// Section is a part of the file that somebody else reads.
type Section struct{ node *yaml.Node }

// UnmarshalYAML keeps it.
func (s *Section) UnmarshalYAML(node *yaml.Node) error {
	s.node = node
	return nil
}

// Decode fills a struct (yaml tags). A field that the struct lacks is refused.
func (s *Section) Decode(into any) error {
	text, err := yaml.Marshal(s.node) // a Node cannot be decoded strictly, its text can
	if err != nil {
		return err
	}
	return strict(text, into)
}

// Settings is one unit's section: the driver's name, and what that driver alone understands.
type Settings struct {
	Driver  string
	Service string // "none" for a directory appliance; anything else is left to the driver
	rest    *yaml.Node
}

// UnmarshalYAML takes out what the agent reads itself.
func (s *Settings) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: a unit is a mapping with a driver", node.Line)
	}
	rest := *node
	rest.Content = nil
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		switch {
		case key.Value == "driver":
			s.Driver = value.Value
		case key.Value == "service" && value.Kind == yaml.ScalarNode && value.Value == serviceNone:
			s.Service = serviceNone
		default:
			rest.Content = append(rest.Content, key, value)
		}
	}
	s.rest = &rest
	return nil
}

// Decode fills the driver's own struct (yaml tags). A field that the struct lacks is refused.
func (s Settings) Decode(into any) error {
	if s.rest == nil || len(s.rest.Content) == 0 {
		return nil
	}
	text, err := yaml.Marshal(s.rest) // a Node cannot be decoded strictly, its text can
	if err != nil {
		return err
	}
	return strict(text, into)
}

// Factory makes a Unit from its section. Registry names the factories by driver; the command line fills it, so that the agent knows
// no driver.
type (
	Factory  func(Settings) (Unit, error)
	Registry map[string]Factory
)

// LoadConfig reads a configuration file strictly.
func LoadConfig(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("agent configuration: %w", err)
	}
	defer f.Close() //nolint:errcheck // read-only
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return Config{}, fmt.Errorf("agent configuration: %w", err)
	}
	if len(text) > maxConfig {
		return Config{}, fmt.Errorf("agent configuration %s: more than %d bytes", path, maxConfig)
	}
	var cfg Config
	if err := strict(text, &cfg); err != nil {
		return Config{}, fmt.Errorf("agent configuration %s: %w", path, err)
	}
	return cfg, nil
}

func strict(text []byte, into any) error {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("more than one document")
	}
	return nil
}

// Agent applies requests to the units of one appliance. It may be used by several goroutines, and several processes may have an agent
// over the same state directory: units are locked on disk.
type Agent struct {
	stateDir                          string
	lockWait, timeout, restoreTimeout time.Duration
	units                             map[string]Unit
	log                               *slog.Logger
	crash                             func(point string) // tests die here; nil otherwise
}

// New builds the units. It touches nothing on the machine.
func New(cfg Config, registry Registry, log *slog.Logger) (*Agent, error) {
	a := &Agent{
		stateDir: cfg.StateDir,
		lockWait: cfg.LockWait, timeout: cfg.Timeout, restoreTimeout: cfg.RestoreTimeout,
		units: make(map[string]Unit, len(cfg.Units)), log: log,
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if a.stateDir == "" {
		a.stateDir = DefaultStateDir
	}
	if !filepath.IsAbs(a.stateDir) {
		return nil, fmt.Errorf("agent configuration: state_dir %q is not absolute", a.stateDir)
	}
	for _, d := range []struct {
		name     string
		value    *time.Duration
		standard time.Duration
	}{{"lock_wait", &a.lockWait, 10 * time.Second}, {"timeout", &a.timeout, 2 * time.Minute}, {"restore_timeout", &a.restoreTimeout, time.Minute}} {
		if *d.value < 0 {
			return nil, fmt.Errorf("agent configuration: %s is negative", d.name)
		}
		if *d.value == 0 {
			*d.value = d.standard
		}
	}
	if len(cfg.Units) == 0 {
		return nil, errors.New("agent configuration: no units: say which services this appliance has")
	}
	owner := map[string]string{} // target path to unit
	for _, name := range slices.Sorted(maps.Keys(cfg.Units)) {
		unit, err := build(name, cfg.Units[name], registry)
		if err != nil {
			return nil, fmt.Errorf("agent configuration: unit %q: %w", name, err)
		}
		for file, target := range unit.Targets() {
			if !plainName(file) || !filepath.IsAbs(target.Path) || filepath.Clean(target.Path) != target.Path {
				return nil, fmt.Errorf("agent configuration: unit %q: file %q at %q: a plain name and a clean absolute path are needed", name, file, target.Path)
			}
			if other, taken := owner[target.Path]; taken {
				return nil, fmt.Errorf("agent configuration: units %q and %q both write %s", other, name, target.Path)
			}
			owner[target.Path] = name
		}
		a.units[name] = unit
	}
	return a, nil
}

func build(name string, settings Settings, registry Registry) (Unit, error) {
	if !plainName(name) {
		return nil, errors.New("the name is not a plain word")
	}
	factory, ok := registry[settings.Driver]
	if !ok {
		return nil, fmt.Errorf("driver %q is not known; there are: %s", settings.Driver, strings.Join(slices.Sorted(maps.Keys(registry)), ", "))
	}
	unit, err := factory(settings)
	if err != nil {
		return nil, err
	}
	if len(unit.Targets()) == 0 {
		return nil, errors.New("the driver writes no file")
	}
	if settings.Service == serviceNone {
		unit = directory{unit}
	}
	return unit, nil
}

// plainName is true of a name that is one path element and stays visible: no separator, no leading dot.
func plainName(name string) bool {
	if name == "" || len(name) > 64 || name[0] == '.' || name[0] == '-' {
		return false
	}
	return strings.IndexFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_')
	}) < 0
}
