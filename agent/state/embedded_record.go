package state

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"
)

// recordHead is the length of a record's fixed part. A record is a key's value in the
// file: the version (8 bytes, big endian), the length of the session ID (1 byte), the ID,
// the value.
const recordHead = 9

func encodeRecord(e Entry) []byte {
	data := make([]byte, 0, recordHead+len(e.Session)+len(e.Value))
	data = binary.BigEndian.AppendUint64(data, e.Version)
	data = append(data, byte(len(e.Session))) // IDs have 36 bytes
	data = append(data, e.Session...)
	return append(data, e.Value...)
}

// decodeRecord copies the data that it returns, because bbolt's memory is valid only
// within the transaction.
func decodeRecord(key, data []byte) (Entry, error) {
	if len(data) < recordHead || len(data) < recordHead+int(data[8]) {
		return Entry{}, fmt.Errorf("the record of key %q is damaged", key)
	}
	rest := data[recordHead:]
	held := int(data[8])
	return Entry{
		Key:     string(key),
		Version: binary.BigEndian.Uint64(data),
		Session: string(rest[:held]),
		Value:   append([]byte{}, rest[held:]...),
	}, nil
}

// each calls visit for every entry under prefix, sorted by key.
func each(tx *bbolt.Tx, prefix string, visit func(Entry) error) error {
	cursor := tx.Bucket(bucketKeys).Cursor()
	p := []byte(prefix)
	for key, data := cursor.Seek(p); key != nil && bytes.HasPrefix(key, p); key, data = cursor.Next() {
		entry, err := decodeRecord(key, data)
		if err != nil {
			return err
		}
		if err := visit(entry); err != nil {
			return err
		}
	}
	return nil
}
