package ssh

import "strings"

// quote makes one word of text for a POSIX shell. It is used for our own constant runner alone; what comes from orders travels in files.
func quote(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
