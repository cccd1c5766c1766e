package winrm

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Message encryption of MS-WSMV 2.2.9.1.1: a multipart/encrypted body whose parts' headers begin with a tab, which no MIME parser takes.
const (
	boundary        = "--Encrypted Boundary"
	encryptionTag   = "application/HTTP-SPNEGO-session-encrypted"
	encryptedType   = `multipart/encrypted;protocol="` + encryptionTag + `";boundary="Encrypted Boundary"`
	originalContent = "OriginalContent: type=application/soap+xml;charset=UTF-8;Length="
	octets          = "Content-Type: application/octet-stream\r\n"
)

func isEncrypted(contentType string) bool {
	return strings.HasPrefix(contentType, "multipart/encrypted") && strings.Contains(contentType, encryptionTag)
}

// splitEncrypted returns the sealed bytes and the length of the plain text.
func splitEncrypted(body []byte) (sealed []byte, length int, err error) {
	bad := errors.New("the multipart/encrypted body is malformed")
	rest, ok := bytes.CutPrefix(body, []byte(boundary+"\r\n"))
	if !ok {
		return nil, 0, bad
	}
	header, rest, ok := bytes.Cut(rest, []byte(boundary+"\r\n"))
	if !ok {
		return nil, 0, bad
	}
	_, text, ok := bytes.Cut(header, []byte(originalContent))
	if !ok {
		return nil, 0, bad
	}
	length, err = strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil || length < 0 {
		return nil, 0, bad
	}
	rest, ok = bytes.CutPrefix(bytes.TrimLeft(rest, "\t "), []byte(octets))
	if !ok {
		return nil, 0, bad
	}
	rest, ok = bytes.CutSuffix(rest, []byte(boundary+"--\r\n"))
	if !ok {
		return nil, 0, bad
	}
	return rest, length, nil
}

func joinEncrypted(sealed []byte, length int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\r\n\tContent-Type: %s\r\n\t%s%d\r\n%s\r\n\t%s", boundary, encryptionTag, originalContent, length, boundary, octets)
	b.Write(sealed)
	b.WriteString(boundary + "--\r\n")
	return b.Bytes()
}
