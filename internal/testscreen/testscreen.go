// Package testscreen types on guests' screens.
package testscreen

import (
	"context"
	"encoding/binary"
	"net"
	"strings"
	"time"
	"unicode"
)

// pace is a quick typist's. A PS/2 keyboard keeps 16 bytes for a guest that is slow to take them, and loses the rest.
const pace = 40 * time.Millisecond

const (
	shift   = 0xffe1
	shifted = `~!@#$%^&*()_+{}|:"<>?` // on an English keyboard
)

type stroke struct {
	down byte
	key  uint32
}

// Type presses and releases a key for each letter over RFB (RFC 6143, 7.5.4): printable ASCII, and '\n' for Return.
func Type(ctx context.Context, conn net.Conn, text string) error {
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for _, r := range text {
		key := uint32(r)
		if r == '\n' {
			key = 0xff0d
		}
		strokes := []stroke{{1, key}, {0, key}}
		if unicode.IsUpper(r) || strings.ContainsRune(shifted, r) {
			strokes = []stroke{{1, shift}, {1, key}, {0, key}, {0, shift}}
		}
		for _, s := range strokes {
			if _, err := conn.Write(binary.BigEndian.AppendUint32([]byte{4, s.down, 0, 0}, s.key)); err != nil {
				return err
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}
