"""Classes of messages, made as protoc would have generated them of this:

syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
enum State { OPEN = 0; PAID = 1; }
message Order {
  message Line { string item = 1; int64 pieces = 2; }
  string user = 1;
  double amount = 2;
  optional string note = 3;
  repeated string tags = 4;
  repeated Line lines = 5;
  map<string, int64> counts = 6;
  map<int32, Line> by_place = 7;
  State state = 8;
  google.protobuf.Timestamp at = 9;
  bytes raw = 10;
  Order parent = 11;
  repeated State states = 12;
  oneof how { string card = 13; int64 cash = 14; }
}
message Refund { string user = 1; message Why { string text = 1; } }
"""

from google.protobuf import descriptor_pool, message_factory, timestamp_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.descriptor_pb2 import FileDescriptorProto

ONE, MANY = Field.LABEL_OPTIONAL, Field.LABEL_REPEATED


def _field(message, name, number, kind, label=ONE, type_name=None, **more):
    message.field.add(name=name, number=number, type=kind, label=label, type_name=type_name, **more)


def _map(message, name, number, key, value, type_name=None):
    entry = name.title().replace("_", "") + "Entry"
    inside = message.nested_type.add(name=entry)
    inside.options.map_entry = True
    _field(inside, "key", 1, key)
    _field(inside, "value", 2, value, type_name=type_name)
    _field(message, name, number, Field.TYPE_MESSAGE, MANY, f".shop.Order.{entry}")


def _file():
    file = FileDescriptorProto(name="shop.proto", package="shop", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    state = file.enum_type.add(name="State")
    state.value.add(name="OPEN", number=0)
    state.value.add(name="PAID", number=1)
    order = file.message_type.add(name="Order")
    line = order.nested_type.add(name="Line")
    _field(line, "item", 1, Field.TYPE_STRING)
    _field(line, "pieces", 2, Field.TYPE_INT64)
    _field(order, "user", 1, Field.TYPE_STRING)
    _field(order, "amount", 2, Field.TYPE_DOUBLE)
    order.oneof_decl.add(name="how")
    order.oneof_decl.add(name="_note")  # those of optional fields come last
    _field(order, "note", 3, Field.TYPE_STRING, proto3_optional=True, oneof_index=1)
    _field(order, "tags", 4, Field.TYPE_STRING, MANY)
    _field(order, "lines", 5, Field.TYPE_MESSAGE, MANY, ".shop.Order.Line")
    _map(order, "counts", 6, Field.TYPE_STRING, Field.TYPE_INT64)
    _map(order, "by_place", 7, Field.TYPE_INT32, Field.TYPE_MESSAGE, ".shop.Order.Line")
    _field(order, "state", 8, Field.TYPE_ENUM, type_name=".shop.State")
    _field(order, "at", 9, Field.TYPE_MESSAGE, type_name=".google.protobuf.Timestamp")
    _field(order, "raw", 10, Field.TYPE_BYTES)
    _field(order, "parent", 11, Field.TYPE_MESSAGE, type_name=".shop.Order")
    _field(order, "states", 12, Field.TYPE_ENUM, MANY, ".shop.State")
    _field(order, "card", 13, Field.TYPE_STRING, oneof_index=0)
    _field(order, "cash", 14, Field.TYPE_INT64, oneof_index=0)
    refund = file.message_type.add(name="Refund")
    _field(refund, "user", 1, Field.TYPE_STRING)
    _field(refund.nested_type.add(name="Why"), "text", 1, Field.TYPE_STRING)
    return file


def _needing():
    """Of proto2, where a field may be required."""
    file = FileDescriptorProto(name="old.proto", package="old", syntax="proto2")
    order = file.message_type.add(name="Order")
    _field(order, "user", 1, Field.TYPE_STRING, Field.LABEL_REQUIRED)
    return file


def _swapped():
    """The same file with its messages in another order."""
    file = _file()
    messages = [type(one).FromString(one.SerializeToString()) for one in file.message_type]
    del file.message_type[:]
    file.message_type.extend(reversed(messages))
    return file


def _class(file, name):
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{name}"))


Order = _class(_file(), "Order")
Refund = _class(_file(), "Refund")
Why = _class(_file(), "Refund.Why")
Order.__module__ = __name__  # so that it can be pickled, as a generated one can
SwappedOrder, SwappedRefund = (_class(_swapped(), name) for name in ("Order", "Refund"))
Needing = _class(_needing(), "Order")
