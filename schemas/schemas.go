// Package schemas holds the JSON Schemas (2020-12) of the messages: what a panel sends and hears (docs/messages.md tells how to use them), and of
// what the site's monitoring is told.
package schemas

import (
	"embed"
	"io/fs"
	"slices"
	"strings"
)

//go:embed *.json
var files embed.FS

// Suffix of a schema's file.
const Suffix = ".json"

// Names lists the schemas without suffix, sorted: those of Messages, "event", which they share, "monitoring.host", and those of docs/ipam.md.
func Names() []string {
	paths, err := fs.Glob(files, "*"+Suffix)
	if err != nil {
		return nil // only a malformed pattern fails
	}
	for i, path := range paths {
		paths[i] = strings.TrimSuffix(path, Suffix)
	}
	return paths
}

// Messages lists the schemas of what goes through the queue: each is a message's type without "slipway.".
func Messages() []string {
	return slices.DeleteFunc(Names(), func(name string) bool {
		return name == "event" || strings.HasPrefix(name, "monitoring.") || strings.HasPrefix(name, "ipam.")
	})
}

// Get returns a schema's text by its name, or by the message type it describes.
func Get(name string) (text []byte, ok bool) {
	text, err := files.ReadFile(strings.TrimPrefix(name, "slipway.") + Suffix)
	return text, err == nil
}
