"""Reads the query of a URL, in the manner of `contract.bodies`."""

from urllib.parse import parse_qsl

from pydantic import ValidationError

from contract.bodies import Body, invalid
from contract.refusals import Refusal

MAX_PARAMETERS = 100


def read_query(type: type[Body], query: bytes) -> Body:
    """Parse and check a URL's query. Of a parameter that is given twice, the last counts; unknown ones are ignored.

    Raises:
        Refusal: 400, with the first `MAX_PROBLEMS` problems.
    """
    try:
        return type.model_validate_strings(dict(parse_qsl(query.decode("latin-1"), max_num_fields=MAX_PARAMETERS)))
    except ValidationError as error:
        raise invalid(error) from None
    except ValueError:
        raise Refusal(400, f"Expected at most {MAX_PARAMETERS} parameters in the URL's query, got more") from None
