"""Upload to the Hugging Face hub, or to the server that ``HF_ENDPOINT`` names, with the user's own login."""

import re
from pathlib import Path

from backbench import UsageError, UserError

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def check(repository: str) -> None:
    """Raise UsageError unless it is OWNER/NAME, and UserError where nobody is logged in."""
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        if not REPOSITORY.fullmatch(repository):
            raise HFValidationError
        validate_repo_id(repository)
    except HFValidationError:
        raise UsageError(f"--push {repository}: OWNER/NAME is expected, as in --push me/birds.") from None
    if not get_token():
        raise UserError(f"--push {repository}: no token was found. Log in with hf auth login, or set HF_TOKEN.")


def push(folder: Path, repository: str, files: list[str], *, private: bool) -> str:
    """Upload the files to the repository, which is made where it isn't there, in one commit; returns its address.

    Raises UserError, which says what to do.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import HfHubHTTPError

    api, kept = HfApi(library_name="backbench"), f"The files stay in {folder}: run the same command with --overwrite."
    try:
        api.create_repo(repository, private=private or None, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=files, commit_message="Upload by backbench export"
        )
    except HfHubHTTPError as error:
        status = error.response.status_code
        reason = " ".join((error.server_message or str(error)).split())[:300]
        says = {
            401: f"{api.endpoint} doesn't take the token. Log in again with hf auth login",
            403: f"the token may not write there. Take a token with the right to write, of {repository.split('/')[0]}",
            404: f"{api.endpoint} has no such owner or repository, or the token may not see it",
        }.get(status, f"{api.endpoint} answers with {status}: {reason}")
        raise UserError(f"nothing was pushed to {repository}: {says}. {kept}") from error
    except (
        Exception
    ) as error:  # of the network, which hub versions raise by several libraries, and of malformed answers
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(
            f"nothing was pushed to {repository}: {api.endpoint} can't be reached, or doesn't answer as a hub "
            f"({reason}). Look at the network, and at HF_ENDPOINT. {kept}"
        ) from error
    return f"{api.endpoint}/{repository}"
