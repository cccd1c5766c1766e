package orchestrator

import (
	"log/slog"
	"strings"
)

// Secret is text that must not be seen: every way of printing it gives "[redacted]". Reveal is the one way to the value, so that a reader
// can find each place where one is used. The zero value is the empty secret.
type Secret struct{ value string }

const redacted = "[redacted]"

// NewSecret wraps a value.
func NewSecret(value string) Secret { return Secret{value: value} }

// Reveal returns the value itself, for the wire or the cipher that needs it; never for a log, an argument list or an error.
func (s Secret) Reveal() string { return s.value }

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return s.value == "" }

func (Secret) String() string               { return redacted }
func (Secret) GoString() string             { return redacted }
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }

// maxHidden bounds in bytes what HideIn looks through.
const maxHidden = 1 << 20

// HideIn makes what somebody else said fit for a message: one line as OneLine makes it, and without the secret, should they have repeated it.
func (s Secret) HideIn(text string) string {
	text = OneLine(text, maxHidden)
	value := OneLine(s.value, maxHidden) // as it would stand there
	if value == "" {
		return text
	}
	return strings.ReplaceAll(text, value, redacted)
}
