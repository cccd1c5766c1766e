package winrm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
)

// Message encryption of MS-WSMV 2.2.9.1.1: a multipart/encrypted body whose parts' headers begin with a tab, which no MIME parser takes.
const (
	sealedBoundary = "--Encrypted Boundary"
	sealedProtocol = "application/HTTP-SPNEGO-session-encrypted"
	sealedType     = `multipart/encrypted;protocol="` + sealedProtocol + `";boundary="Encrypted Boundary"`
	sealedOriginal = "OriginalContent: type=application/soap+xml;charset=UTF-8;Length="
	sealedOctets   = "Content-Type: application/octet-stream\r\n"
	signatureSize  = 16
)

func joinSealed(sealed, signature []byte, length int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\r\n\tContent-Type: %s\r\n\t%s%d\r\n%s\r\n\t%s", sealedBoundary, sealedProtocol, sealedOriginal, length, sealedBoundary, sealedOctets)
	b.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(signature))))
	b.Write(signature)
	b.Write(sealed)
	b.WriteString(sealedBoundary + "--\r\n")
	return b.Bytes()
}

// splitSealed takes an encrypted answer apart.
func splitSealed(body []byte) (sealed, signature []byte, length int, err error) {
	bad := errors.New("the encrypted answer is malformed")
	first, rest, ok := bytes.Cut(body, []byte(sealedBoundary+"\r\n"))
	if !ok || len(bytes.TrimSpace(first)) > 0 {
		return nil, nil, 0, bad
	}
	header, rest, ok := bytes.Cut(rest, []byte(sealedBoundary+"\r\n"))
	if !ok {
		return nil, nil, 0, bad
	}
	_, text, ok := bytes.Cut(header, []byte("Length="))
	if !ok {
		return nil, nil, 0, bad
	}
	if length, err = strconv.Atoi(string(bytes.TrimSpace(text))); err != nil || length < 0 {
		return nil, nil, 0, bad
	}
	rest, ok = bytes.CutPrefix(bytes.TrimLeft(rest, "\t "), []byte(sealedOctets))
	if !ok {
		return nil, nil, 0, bad
	}
	rest, ok = bytes.CutSuffix(rest, []byte(sealedBoundary+"--\r\n"))
	if !ok || len(rest) < 4+signatureSize || binary.LittleEndian.Uint32(rest) != signatureSize {
		return nil, nil, 0, bad
	}
	return rest[4+signatureSize:], rest[4 : 4+signatureSize], length, nil
}
