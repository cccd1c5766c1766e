package winrm

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"slipway/orchestrator"
)

// passwordLength and passwordLetters give about 120 bits. Letters that are taken for one another on a console are left out, and so is what
// keyboards of other countries have elsewhere.
const (
	passwordLength  = 20
	passwordLetters = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789+-_.,:=%"
)

// maxComputer is NetBIOS' limit: a longer name would be cut off by Windows, and two machines could come to share one.
const maxComputer = 15

// CheckHostname says whether a Windows guest can be called so: its first label becomes the computer's name, the rest its DNS suffix. A
// refusal is an orchestrator.FieldError of the field hostname.
func CheckHostname(hostname string) error {
	computer, _, _ := strings.Cut(hostname, ".")
	no := func(fix, format string, args ...any) error {
		return orchestrator.FieldError{Field: "hostname", Problem: fmt.Sprintf(format, args...), Fix: fix}
	}
	switch {
	case !namePattern.MatchString(hostname) || len(hostname) > 255:
		return no("use letters, digits, dashes and dots", "%.80q is no name of letters, digits, dashes and dots", hostname)
	case len(computer) > maxComputer:
		return no(fmt.Sprintf("use at most %d, e.g. %q", maxComputer, strings.TrimRight(computer[:maxComputer], "-")),
			"%q has %d characters before the first dot, and a Windows computer name at most %d", computer, len(computer), maxComputer)
	case strings.Trim(computer, "0123456789") == "":
		return no("add a letter", "%q is all digits, which Windows does not take for a computer name", computer)
	case slices.Contains(reservedNames, strings.ToLower(computer)):
		return no("use another, e.g. "+strings.ToLower(computer)+"-1", "%q is a name that Windows keeps for itself", computer)
	}
	return nil
}

// reservedNames are those of one word among Microsoft's reserved names for computers ("Naming conventions in Active Directory for
// computers, domains, sites, and OUs", KB 909264).
var reservedNames = []string{
	"anonymous", "batch", "builtin", "dialup", "interactive", "internet", "local", "network", "null", "proxy", "restricted", "self", "server",
	"service", "system", "users", "world",
}

// NewPassword makes an administrator's password that CheckPassword takes, of rand (crypto/rand.Reader outside of tests).
func NewPassword(rand io.Reader) (orchestrator.Secret, error) {
	const tries = 100 // one in some hundred lacks a class of characters
	for range tries {
		var text strings.Builder
		for text.Len() < passwordLength {
			var b [1]byte
			if _, err := io.ReadFull(rand, b[:]); err != nil {
				return orchestrator.Secret{}, fmt.Errorf("make a password: %w", err)
			}
			// Bytes beyond the last whole multiple would favour the first letters.
			if int(b[0]) < 256/len(passwordLetters)*len(passwordLetters) {
				text.WriteByte(passwordLetters[int(b[0])%len(passwordLetters)])
			}
		}
		if password := orchestrator.NewSecret(text.String()); CheckPassword(password) == nil {
			return password, nil
		}
	}
	return orchestrator.Secret{}, errors.New("make a password: the source of randomness is not random")
}

// CheckPassword says whether Windows' default policy takes a password: length, and three of its four classes of characters. The error
// does not show it.
func CheckPassword(password orchestrator.Secret) error {
	text := password.Reveal()
	var lower, upper, digit, other int
	for _, r := range text {
		switch {
		case r < 0x20 || r > 0x7e:
			return errors.New("administrator password: has a character that is not printable ASCII: not every keyboard at a console has it")
		case unicode.IsLower(r):
			lower = 1
		case unicode.IsUpper(r):
			upper = 1
		case unicode.IsDigit(r):
			digit = 1
		default:
			other = 1
		}
	}
	switch {
	case text == "":
		return errors.New("administrator password: there is none, and the customer could not log in")
	case len(text) < 12 || len(text) > 127:
		return fmt.Errorf("administrator password: has %d characters: use 12 to 127", len(text))
	case lower+upper+digit+other < 3:
		return errors.New("administrator password: use at least three of lower case, upper case, digits and other characters, as Windows' policy wants")
	case strings.Contains(strings.ToLower(text), "administrator"):
		return errors.New("administrator password: holds the account's name, which Windows' policy forbids")
	}
	return nil
}
